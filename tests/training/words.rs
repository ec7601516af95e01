//! A training step's gradients on word pairs, LoRA and full, against float64.

use crate::support::Golden;
use crate::support::assert_close;
use crate::support::path;
use kiungo::device::{DType, Device};
use kiungo::formats::pairs::Pair;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::weights::{Options, load};
use kiungo::llama::PerProjection;
use kiungo::llama::adapters::{Adapters, Lora};
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Model, names};
use kiungo::training::batch::{Group, Translations};
use kiungo::training::learner::{Learner, LoraLearner};
use kiungo::training::plan::Plan;
use kiungo::training::settings::{Method, Preset, Settings};
use kiungo::training::step::Trainer;

const BOUND: f64 = 1e-5;
const PAIRS: usize = 4;

pub fn group(golden: &Golden) -> Group {
    let lengths = golden.integers("lengths");
    let rows = golden.get("input_ids").chunks(golden.shape("input_ids")[1]).zip(&lengths);
    let mut texts: Vec<Vec<u32>> = rows.map(|(r, &n)| r[..n as usize].iter().map(|&id| id as u32).collect()).collect();
    let targets = texts.split_off(PAIRS);
    let pair = |i| Pair { source: format!("source {i}"), target: format!("target {i}") };
    Group { pairs: (0..PAIRS).map(pair).collect(), sources: texts, targets }
}

/// tiny-llama with adapters in, or all weights of, blocks 0 and 1.
pub fn setup(device: &Device, compute: DType, method: Method) -> (Settings, Plan, Model) {
    setup_with(device, compute, method, |_| {})
}

/// The same with other settings.
pub fn setup_with(
    device: &Device,
    compute: DType,
    method: Method,
    change: impl FnOnce(&mut Settings),
) -> (Settings, Plan, Model) {
    try_setup(device, compute, method, change).unwrap()
}

/// The same where memory may be short.
pub fn try_setup(
    device: &Device,
    compute: DType,
    method: Method,
    change: impl FnOnce(&mut Settings),
) -> anyhow::Result<(Settings, Plan, Model)> {
    let folder = path("golden/tiny-llama");
    let config = Config::open(&folder).unwrap();
    let mut settings = Settings::preset(Preset::Clean, method, &config);
    (settings.base, settings.rank, settings.alpha, settings.dropout, settings.batch) = (Base::F32, 4, 8.0, 0.0, PAIRS);
    change(&mut settings);
    let plan = Plan::new(&settings, &config, &[]).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = load(
        &checkpoint,
        &config,
        Options { parts: plan.parts, base: settings.base, compute, device, positions: 64 },
        |_| {},
    )?;
    Ok((settings, plan, model))
}

fn adapters(golden: &Golden, plan: &Plan) -> Adapters {
    let lora = |block, p| {
        let name = |factor| golden.tensor(&format!("lora.{}.lora_{factor}.weight", module(block, p)));
        Lora { a: name("A"), b: name("B") }
    };
    let block = |b: usize| (b, PerProjection::try_from_fn(|p| Ok::<_, ()>(Some(lora(b, p)))).unwrap());
    Adapters { rank: 4, scale: 2.0, blocks: plan.learning.iter().map(|&b| block(b)).collect() }
}

fn module(block: usize, projection: kiungo::llama::config::Projection) -> String {
    format!("model.layers.{block}.{}", projection.path())
}

#[test]
fn lora_gradients_of_a_word_batch_match_float64() {
    let golden = Golden::open("words.safetensors");
    let (settings, plan, model) = setup(&Device::Cpu, DType::F32, Method::Lora);
    let adapters = adapters(&golden, &plan);
    let learner = LoraLearner::new(adapters, &plan, &model.config, &Device::Cpu).unwrap();
    let group = group(&golden);
    let translations = Translations::new(&group.pairs);
    let mut trainer =
        Trainer::with_learner(model, Learner::Lora(learner), &settings, &plan, &group, translations).unwrap();
    let loss = trainer.gradients(&group, &[0, 1, 2, 3], 0).unwrap();
    assert_close("loss", &[loss], golden.get("lora.loss"), BOUND);
    let parameters = trainer.learner.parameters(&mut trainer.model);
    assert_eq!(parameters.len(), 2 * 7 * 2);
    for p in parameters {
        let name = format!("lora.{}.grad", p.name.strip_suffix(".weight").unwrap());
        assert_close(&name, p.gradient.as_ref().unwrap().as_slice::<f32>().unwrap(), golden.get(&name), BOUND);
    }
}

#[test]
fn full_gradients_of_a_word_batch_match_float64() {
    let golden = Golden::open("words.safetensors");
    let (settings, plan, model) = setup(&Device::Cpu, DType::F32, Method::Full);
    let group = group(&golden);
    let translations = Translations::new(&group.pairs);
    let mut trainer = Trainer::new(model, &settings, &plan, &group, translations).unwrap();
    let loss = trainer.gradients(&group, &[0, 1, 2, 3], 0).unwrap();
    assert_close("loss", &[loss], golden.get("full.loss"), BOUND);
    let parameters = trainer.learner.parameters(&mut trainer.model);
    assert_eq!(parameters.len(), 1 + 2 * 9);
    for p in parameters {
        let found = p.gradient.as_ref().unwrap().as_slice::<f32>().unwrap();
        if p.name == names::EMBEDDING {
            let rows = golden.integers("full.embed_tokens.rows");
            let width = p.gradient.as_ref().unwrap().columns();
            let picked: Vec<f32> =
                rows.iter().flat_map(|&r| found[r as usize * width..(r as usize + 1) * width].to_vec()).collect();
            assert_close("embedding", &picked, golden.get("full.embed_tokens.grad"), BOUND);
            assert_eq!(found.iter().filter(|&&v| v != 0.0).count(), picked.iter().filter(|&&v| v != 0.0).count());
        } else {
            let name = format!("full.{}.grad", p.name);
            assert_close(&name, found, golden.get(&name), BOUND);
        }
    }
}
