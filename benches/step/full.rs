//! All weights of the model on a word batch, with the loss at the end.

use super::{Case, llama_3_8b};
use crate::harness::Bench;
use kiungo::llama::Layer;
use kiungo::llama::model::Base;
use kiungo::ops::adamw::Precision;
use kiungo::training::settings::{Master, Method, Preset, Settings, When};

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let config = llama_3_8b()?;
    let settings = Settings {
        base: Base::Bf16,
        target: Layer::Final,
        // Eight sequences of eight tokens.
        batch: 4,
        master: Master::None,
        update: When::AtOnce,
        ..Settings::preset(Preset::Paper, Method::Full, &config)
    };
    let states = [
        ("8-bit", Precision::Blocks8, None),
        ("8-bit, clipped", Precision::Blocks8, Some(1.0)),
        ("bf16", Precision::Bf16, None),
    ];
    states.into_iter().try_for_each(|(variant, moments, clip)| {
        let settings = Settings { moments, clip, ..settings.clone() };
        Case { op: "full-step", variant, settings, lengths: 8..=8 }.run(bench)
    })
}
