//! The step of the main job: adapters on word pairs.

use super::{Case, model};
use crate::harness::Bench;
use kiungo::llama::Layer;
use kiungo::llama::model::Base;
use kiungo::training::settings::{Method, Preset, Settings};

const OP: &str = "word-step";
/// Of a word.
const TOKENS: std::ops::RangeInclusive<usize> = 1..=8;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let config = model::llama_3_8b()?;
    let paper = Settings { target: Layer::Hidden(2), ..Settings::preset(Preset::Paper, Method::Lora, &config) };
    let adapted = Settings { blocks: vec![0, 1], ..paper.clone() };
    // 96 sequences.
    let wide = Settings { batch: 48, ..adapted.clone() };
    let literal = Settings { blocks: vec![2], target: Layer::Hidden(3), ..wide.clone() };
    let clean = Settings::preset(Preset::Clean, Method::Lora, &config);
    let case = |variant, settings: &Settings, lengths, dense| Case {
        op: OP,
        variant,
        settings: Settings { base: Base::Nf4, ..settings.clone() },
        lengths,
        dense,
    };
    let cases = [
        case("96x8-nf4", &wide, 8..=8, false),
        case("96x8-bf16-copy", &wide, 8..=8, true),
        case("paper-batch", &adapted, TOKENS, false),
        case("paper-batch-bf16-copy", &adapted, TOKENS, true),
        case("literal", &literal, 8..=8, false),
        case("literal-bf16-copy", &literal, 8..=8, true),
        case("clean", &clean, TOKENS, false),
        case("clean-bf16-copy", &clean, TOKENS, true),
    ];
    cases.iter().try_for_each(|case| case.run(bench))
}
