//! The step of the main job: adapters on word pairs.

use super::{Case, llama_3_8b};
use crate::harness::Bench;
use kiungo::llama::Layer;
use kiungo::llama::model::Base;
use kiungo::training::settings::Dequantize::{EachStep, Once};
use kiungo::training::settings::{Method, Preset, Settings};

const OP: &str = "word-step";
/// Of a word.
const TOKENS: std::ops::RangeInclusive<usize> = 1..=8;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let config = llama_3_8b()?;
    let paper = Settings { target: Layer::Hidden(2), ..Settings::preset(Preset::Paper, Method::Lora, &config) };
    let adapted = Settings { blocks: vec![0, 1], ..paper.clone() };
    // 96 sequences.
    let wide = Settings { batch: 48, ..adapted.clone() };
    let literal = Settings { blocks: vec![2], target: Layer::Hidden(3), ..wide.clone() };
    let clean = Settings::preset(Preset::Clean, Method::Lora, &config);
    let case = |variant, settings: &Settings, lengths, dequantize| {
        let settings = Settings { base: Base::Nf4, dequantize, ..settings.clone() };
        Case { op: OP, variant, settings, lengths }
    };
    let cases = [
        case("96x8-nf4", &wide, 8..=8, EachStep),
        case("96x8-bf16-copy", &wide, 8..=8, Once),
        case("paper-batch", &adapted, TOKENS, EachStep),
        case("paper-batch-bf16-copy", &adapted, TOKENS, Once),
        case("literal", &literal, 8..=8, EachStep),
        case("literal-bf16-copy", &literal, 8..=8, Once),
        case("clean", &clean, TOKENS, EachStep),
        case("clean-bf16-copy", &clean, TOKENS, Once),
    ];
    cases.iter().try_for_each(|case| case.run(bench))
}
