//! A loss that does not move is explained.

use kiungo::llama::config::Config;
use kiungo::training::history::StepRecord;
use kiungo::training::settings::{Method, Preset, Settings};
use kiungo::training::unmoved::{STEPS, explain};
use std::path::Path;

fn settings() -> Settings {
    let config = include_str!("../../src/training/builtin/config.json");
    Settings::preset(Preset::Clean, Method::Lora, &Config::parse(Path::new("config.json"), config).unwrap())
}

fn steps(loss: impl Fn(usize) -> f32, learning_rate: f64, gradient_norm: f32) -> Vec<StepRecord> {
    let step = |step| StepRecord { step, epoch: 1, loss: loss(step), learning_rate, gradient_norm, milliseconds: 1.0 };
    (1..=STEPS).map(step).collect()
}

/// Batches differ: the sign changes from step to step.
fn noise(step: usize) -> f32 {
    if step.is_multiple_of(2) { 0.2 } else { -0.2 }
}

#[test]
fn a_loss_that_falls_is_no_matter() {
    assert_eq!(explain(&steps(|s| 4.0 - 0.02 * s as f32 + noise(s), 1e-3, 1.0), &settings()), None);
    assert_eq!(explain(&steps(|_| 4.0, 1e-3, 1.0)[..STEPS - 1], &settings()), None);
}

#[test]
fn one_that_does_not_is_explained() {
    for (loss, rate, norm, says) in [
        (4.0, 1e-9, 1.0, "the learning rate has not been above 1.0e-9: raise --lr"),
        (4.0, 1e-3, 1e-9, "the gradient is almost nothing (norm 1.0e-9): look at --target, --blocks and --pooling"),
        (0.0, 1e-3, 0.0, "it is 0: the model tells all pairs of a batch apart already; raise --batch"),
        (4.0, 1e-3, 1.0, "raise --lr, or see whether the pairs are translations of each other"),
    ] {
        let found = explain(&steps(|s| loss + if loss > 0.0 { noise(s) } else { 0.0 }, rate, norm), &settings());
        assert!(found.as_ref().is_some_and(|found| found.contains(says)), "{found:?}");
    }
    let slow = Settings { warmup: 200, ..settings() };
    assert!(explain(&steps(|_| 4.0, 1e-3, 1.0), &slow).unwrap().contains("warm-up goes on until step 200"));
}
