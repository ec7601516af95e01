//! Which combinations can learn, and what a plan reads, runs and trains.

use kiungo::llama::Layer;
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::training::plan::Plan;
use kiungo::training::settings::{Method, Preset, Settings, When};

fn config() -> Config {
    Config::open(&crate::support::path("golden/tiny-llama")).unwrap()
}

fn plan(preset: Preset, method: Method, change: impl FnOnce(&mut Settings)) -> Result<Plan, String> {
    let config = config();
    let mut settings = Settings::preset(preset, method, &config);
    change(&mut settings);
    Plan::new(&settings, &config, &[settings.target]).map_err(|e| e.to_string())
}

#[test]
fn the_default_trains_blocks_0_and_1() {
    let plan = plan(Preset::Clean, Method::Lora, |_| {}).unwrap();
    assert_eq!((plan.blocks, plan.prefix), (2, 0));
    assert_eq!((plan.learning, plan.idle), (vec![0, 1], vec![]));
    assert_eq!((plan.parts.blocks, plan.parts.final_norm), (2, false));
    // Rank 16 on q, k, v, o (64 to 64, 32, 32, 64) and gate, up, down (64 to 128 and back), twice.
    assert_eq!(plan.parameters, 2 * 16 * (128 + 96 + 96 + 128 + 3 * 192));
}

#[test]
fn a_literal_layer_2_adapter_has_a_prefix_of_two_blocks() {
    let plan = plan(Preset::Clean, Method::Lora, |s| (s.blocks, s.target) = (vec![2], Layer::Hidden(3))).unwrap();
    assert_eq!((plan.blocks, plan.prefix, plan.learning), (3, 2, vec![2]));
}

#[test]
fn the_paper_holds_idle_adapters() {
    let plan = plan(Preset::Paper, Method::Lora, |_| {}).unwrap();
    assert_eq!((plan.learning, plan.idle), (vec![0, 1], vec![2, 3]));
}

#[test]
fn full_training_reaches_what_lies_below_its_target() {
    let at = |target| plan(Preset::Clean, Method::Full, |s| s.target = target).unwrap();
    let two = at(Layer::Hidden(2));
    assert_eq!((two.learning, two.embedding, two.final_norm), (vec![0, 1], true, false));
    let all = at(Layer::Final);
    assert_eq!((all.learning.len(), all.embedding, all.final_norm), (4, true, true));
    let block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64;
    assert_eq!(all.parameters, 512 * 64 + 4 * block + 64);
}

#[test]
fn what_cannot_learn_is_refused_with_the_reason() {
    let cases: [(Result<Plan, String>, &str); 9] = [
        (
            plan(Preset::Clean, Method::Full, |s| (s.chunk, s.update) = (Some(2), When::AtOnce)),
            "--chunk adds up the gradients of a batch's parts, and --update at-once keeps none to add to. Use --update together",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| s.update = When::AtOnce),
            "--update at-once is for --method full: the gradients of adapters take no memory to speak of",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| (s.blocks, s.target) = (vec![2], Layer::Hidden(2))),
            "no adapter can learn: the loss reads the state after 2 blocks, and the adapters sit in block 2. Use --target 3 or higher, or blocks below 2",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| s.blocks = vec![0, 1, 2]),
            "adapters in block 2 cannot learn: the loss reads the state after 2 blocks. Leave them out of --blocks, or raise --target",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| s.blocks = vec![9]),
            "--blocks names block 9, and the model has 4 (0 is the first)",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| s.target = Layer::Hidden(5)),
            "target 5 is above the model's last state, 4",
        ),
        (
            plan(Preset::Clean, Method::Full, |s| s.base = Base::Nf4),
            "--method full cannot train a nf4 base: 4-bit codes have no gradient. Use --base bf16 or f32",
        ),
        (
            plan(Preset::Clean, Method::Full, |s| s.blocks = vec![0]),
            "--blocks says where adapters sit, and --method full has none: it trains all that --target reaches",
        ),
        (
            plan(Preset::Clean, Method::Lora, |s| s.rank = 0),
            "no adapter to train: --projections is empty or --rank is 0",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found.unwrap_err(), expected);
    }
}
