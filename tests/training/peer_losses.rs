//! 100 training steps on a real model: the loss of each step against transformers + PEFT, both methods, both losses.

use crate::llama::smollm2;
use crate::support::path;
use kiungo::device::Device;
use kiungo::formats::pairs;
use kiungo::formats::peft;
use kiungo::formats::tokenizer::Tokenizer;
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::training::batch::{Group, Translations};
use kiungo::training::learner::{Learner, LoraLearner};
use kiungo::training::plan::Plan;
use kiungo::training::run::{Event, Go, run};
use kiungo::training::settings::{Method, Preset, Settings};
use kiungo::training::step::Trainer;

const STEPS: usize = 100;
const BOUND: f64 = 1e-3;

fn check(name: &str, preset: Preset, method: Method) {
    let Some(folder) = crate::support::smollm2() else { return };
    let config = Config::open(&folder).unwrap();
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path("golden/peer_losses.json")).unwrap()).unwrap();
    let golden = &golden["runs"][name];
    let mut settings = Settings::preset(preset, method, &config);
    (settings.base, settings.dropout, settings.shuffle) = (Base::F32, 0.0, false);
    if method == Method::Lora {
        // The peer's adapters sit in the two blocks that learn; elsewhere they would stay zero.
        settings.blocks = vec![0, 1];
    }
    let plan = Plan::new(&settings, &config, &[]).unwrap();
    let tokenizer = Tokenizer::open(&folder, &config).unwrap();
    let pairs = pairs::read(&path("data/wold").join(golden["pairs"].as_str().unwrap()), None).unwrap().pairs;
    let encode = |text: &str| tokenizer.encode(text, settings.bos, settings.max_length).unwrap().ids;
    let group = Group {
        sources: pairs.iter().map(|p| encode(&p.source)).collect(),
        targets: pairs.iter().map(|p| encode(&p.target)).collect(),
        pairs,
    };
    let mut model = smollm2::open(&folder, Some(plan.blocks));
    let learner = match golden["init"].as_str() {
        Some(init) => Learner::Lora(
            LoraLearner::new(
                peft::Adapter::open(&path("golden").join(init), &config).unwrap().on_device(&Device::Cpu).unwrap(),
                &plan,
                &config,
                &Device::Cpu,
            )
            .unwrap(),
        ),
        None => Learner::new(&plan, &settings, &mut model).unwrap(),
    };
    let translations = Translations::new(&group.pairs);
    let mut trainer = Trainer::with_learner(model, learner, &settings, &plan, &group, translations).unwrap();
    let expected: Vec<f64> = golden["losses"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let mut losses = vec![];
    run(&mut trainer, &group, None, &settings, |event| {
        if let Event::Step(step) = event {
            losses.push(f64::from(step.loss));
        }
        Ok(if losses.len() < STEPS { Go::On } else { Go::Stop })
    })
    .unwrap();
    let worst = losses.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max);
    println!("{name}: worst relative difference of {STEPS} losses {worst:.2e}");
    assert!(worst <= BOUND, "{name}: {worst:.2e}, allowed {BOUND:.0e}\nfound {losses:?}\nexpected {expected:?}");
}

#[test]
fn clean_lora_takes_the_peers_steps() {
    check("clean-lora", Preset::Clean, Method::Lora);
}

#[test]
fn clean_full_takes_the_peers_steps() {
    check("clean-full", Preset::Clean, Method::Full);
}

#[test]
fn paper_lora_takes_the_peers_steps() {
    check("paper-lora", Preset::Paper, Method::Lora);
}

#[test]
fn paper_full_takes_the_peers_steps() {
    check("paper-full", Preset::Paper, Method::Full);
}
