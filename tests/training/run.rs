//! Whole runs on the built-in input: they learn, they repeat, and adapters with a frozen prefix see the same states.

use crate::support::assert_close;
use kiungo::device::{DType, Device};
use kiungo::formats::pairs;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::Tokenizer;
use kiungo::formats::weights::{Options, load};
use kiungo::llama::Layer;
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Model};
use kiungo::ops::adamw::Precision;
use kiungo::training::batch::{Group, Translations};
use kiungo::training::builtin;
use kiungo::training::optimizer::Parameter;
use kiungo::training::plan::Plan;
use kiungo::training::run::{Event, Go, run};
use kiungo::training::settings::{Keep, Master, Method, Preset, Settings, When};
use kiungo::training::step::Trainer;
use rayon::ThreadPoolBuilder;

struct Input {
    _folder: tempfile::TempDir,
    config: Config,
    checkpoint: Checkpoint,
    group: Group,
}

fn input() -> Input {
    let folder = tempfile::tempdir().unwrap();
    let at = builtin::write_to(folder.path(), builtin::SEED).unwrap();
    let config = Config::open(&at.model).unwrap();
    let tokenizer = Tokenizer::open(&at.model, &config).unwrap();
    let pairs: Vec<_> = pairs::read(&at.pairs, None).unwrap().pairs.into_iter().take(48).collect();
    let encode = |text: &str| tokenizer.encode(text, Default::default(), 64).unwrap().ids;
    let sources = pairs.iter().map(|p| encode(&p.source)).collect();
    let targets = pairs.iter().map(|p| encode(&p.target)).collect();
    let checkpoint = Checkpoint::open(&at.model).unwrap();
    Input { _folder: folder, config, checkpoint, group: Group { pairs, sources, targets } }
}

fn settings(config: &Config, method: Method) -> Settings {
    let mut settings = Settings::preset(Preset::Clean, method, config);
    (settings.epochs, settings.batch, settings.warmup) = (4, 16, 2);
    settings
}

fn model(input: &Input, plan: &Plan, settings: &Settings, compute: DType) -> Model {
    load(
        &input.checkpoint,
        &input.config,
        Options { parts: plan.parts, base: settings.base, compute, device: &Device::Cpu, positions: 64 },
        |_| {},
    )
    .unwrap()
}

/// Losses of all steps, and the bytes of everything that learned.
fn train(input: &Input, settings: &Settings, compute: DType) -> (Vec<f32>, Vec<u32>) {
    let plan = Plan::new(settings, &input.config, &[]).unwrap();
    let model = model(input, &plan, settings, compute);
    let translations = Translations::new(&input.group.pairs);
    let mut trainer = Trainer::new(model, settings, &plan, &input.group, translations).unwrap();
    let mut losses = vec![];
    run(&mut trainer, &input.group, None, settings, |event| {
        if let Event::Step(step) = event {
            losses.push(step.loss);
        }
        Ok(Go::On)
    })
    .unwrap();
    let parameters = trainer.learner.parameters(&mut trainer.model);
    let bytes = parameters.iter().flat_map(|p| p.master.to_f32().unwrap()).map(f32::to_bits).collect();
    (losses, bytes)
}

#[test]
fn losses_fall() {
    let input = input();
    for method in [Method::Lora, Method::Full] {
        let (losses, _) = train(&input, &settings(&input.config, method), DType::F32);
        let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
        assert!(mean(&losses[9..]) < mean(&losses[..3]), "{method}: {losses:?}");
    }
}

#[test]
fn a_seed_gives_the_same_bytes_for_any_number_of_threads() {
    let input = input();
    for method in [Method::Lora, Method::Full] {
        let settings = settings(&input.config, method);
        let with = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&input, &settings, DType::F32))
        };
        let first = with(1);
        assert!(with(2) == first && with(3) == first, "{method}");
        let other = train(&input, &Settings { seed: 1, ..settings.clone() }, DType::F32);
        assert!(other.1 != first.1, "another seed, the same bytes");
    }
}

#[test]
fn bf16_rounding_stays_near_f32() {
    let input = input();
    let settings = settings(&input.config, Method::Lora);
    let (exact, _) = train(&input, &settings, DType::F32);
    let (rounded, _) = train(&input, &settings, DType::Bf16);
    for (a, b) in exact.iter().zip(&rounded) {
        assert!((a - b).abs() < 0.05 * a.abs(), "{exact:?}\n{rounded:?}");
    }
}

/// The frozen blocks are run once; a run whose adapters sit in all blocks but are zero in the lower ones starts from
/// the same states.
#[test]
fn a_cached_prefix_gives_the_loss_of_the_whole_model() {
    let input = input();
    let mut above = settings(&input.config, Method::Lora);
    (above.blocks, above.target, above.dropout) = (vec![2], Layer::Hidden(3), 0.0);
    let below = Settings { blocks: vec![0, 2], ..above.clone() };
    let first_loss = |settings: &Settings, prefix: usize| {
        let plan = Plan::new(settings, &input.config, &[]).unwrap();
        assert_eq!(plan.prefix, prefix);
        let model = model(&input, &plan, settings, DType::F32);
        let translations = Translations::new(&input.group.pairs);
        let mut trainer = Trainer::new(model, settings, &plan, &input.group, translations).unwrap();
        trainer.gradients(&input.group, &[5, 1, 40, 7], 0).unwrap()
    };
    assert_eq!(first_loss(&above, 2), first_loss(&below, 0));
}

/// A base in 4 bits trains too, and full training on one was refused when the plan was made.
#[test]
fn adapters_learn_on_a_4_bit_base() {
    let input = input();
    let quantised = Settings { base: Base::Nf4Double, ..settings(&input.config, Method::Lora) };
    let (losses, _) = train(&input, &quantised, DType::F32);
    assert!(losses.last() < losses.first(), "{losses:?}");
}

/// What fewer bytes must not change: where nothing is rounded otherwise, nothing at all.
#[test]
fn learning_at_once_and_keeping_states_alone_change_nothing() {
    let input = input();
    for target in [Layer::Hidden(2), Layer::Final] {
        let base = Base::F32;
        let plain = Settings { target, base, epochs: 2, ..settings(&input.config, Method::Full) };
        let expected = train(&input, &plain, DType::F32);
        let at_once = Settings { update: When::AtOnce, ..plain.clone() };
        assert!(train(&input, &at_once, DType::F32) == expected, "at once, target {target}");
        let states = Settings { keep: Keep::States, ..at_once.clone() };
        assert!(train(&input, &states, DType::F32) == expected, "states alone, target {target}");

        // The norm that clips is summed in another order.
        let (losses, _) = train(&input, &Settings { clip: Some(0.1), ..plain }, DType::F32);
        let (found, _) = train(&input, &Settings { clip: Some(0.1), ..states }, DType::F32);
        assert!(losses != expected.0, "no gradient was clipped");
        for (a, b) in losses.iter().zip(&found) {
            assert!((a - b).abs() < 1e-3 * a.abs(), "clipped, target {target}: {losses:?}\n{found:?}");
        }
    }
    let lora = settings(&input.config, Method::Lora);
    let states = Settings { keep: Keep::States, ..lora.clone() };
    assert!(train(&input, &states, DType::F32) == train(&input, &lora, DType::F32), "states alone, adapters");
}

/// bf16 weights that are rounded at random, and moments of fewer bits, learn as f32 does.
#[test]
fn weights_and_moments_of_few_bits_learn() {
    let input = input();
    let exact = settings(&input.config, Method::Full);
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (losses, _) = train(&input, &exact, DType::F32);
    let reached = mean(&losses[9..]);
    for moments in [Precision::F32, Precision::Bf16, Precision::Blocks8] {
        for update in [When::Together, When::AtOnce] {
            let few = Settings { moments, update, master: Master::None, ..exact.clone() };
            let (losses, weights) = train(&input, &few, DType::F32);
            let found = mean(&losses[9..]);
            assert!((found - reached).abs() < 0.05 * reached, "{moments} {update}: {found}, f32 {reached}");
            assert!(train(&input, &few, DType::F32).1 == weights, "{moments} {update}: other bytes");
        }
    }
}

/// Gradients of a batch that is computed in parts are those of the batch computed whole: losses compare within the batch, and
/// dropout drops what it would.
#[test]
fn a_batch_in_parts_gives_the_gradients_of_the_whole() {
    let input = input();
    let pairs = [5, 1, 40, 7, 22, 3, 30];
    for method in [Method::Lora, Method::Full] {
        for target in [Layer::Hidden(2), Layer::Final] {
            let gradients = |chunk: Option<usize>| {
                let settings = Settings { target, chunk, dropout: 0.2, ..settings(&input.config, method) };
                let plan = Plan::new(&settings, &input.config, &[]).unwrap();
                let model = model(&input, &plan, &settings, DType::F32);
                let translations = Translations::new(&input.group.pairs);
                let mut trainer = Trainer::new(model, &settings, &plan, &input.group, translations).unwrap();
                if method == Method::Lora {
                    // B is zero at the start, and A has no gradient then.
                    trainer.step(&input.group, &pairs, 0, 1e-2).unwrap();
                }
                let loss = trainer.gradients(&input.group, &pairs, 1).unwrap();
                let parameters = trainer.learner.parameters(&mut trainer.model);
                let gradient = |p: &Parameter| p.gradient.as_ref().unwrap().to_vec::<f32>().unwrap();
                let all: Vec<_> = parameters.iter().map(|p| (p.name.clone(), gradient(p))).collect();
                (loss, all)
            };
            let (loss, whole) = gradients(None);
            for chunk in [1, 2, 3, 7, 100] {
                let what = format!("{method} at {target}, {chunk} pairs at once");
                let (found, parts) = gradients(Some(chunk));
                // One step before has been taken, and AdamW makes much of small differences.
                assert_close(&format!("{what}: loss"), &[found], &[loss], 1e-5);
                for ((name, expected), (_, found)) in whole.iter().zip(&parts) {
                    assert_close(&format!("{what}: {name}"), found, expected, 1e-3);
                }
            }
        }
    }
}
