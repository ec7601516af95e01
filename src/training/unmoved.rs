//! Whether training moves the loss, and what to look at where it does not.

use super::history::StepRecord;
use super::settings::{Loss, Settings};

/// Steps after which a loss should have moved.
pub const STEPS: usize = 50;
/// Steps at each end that are compared.
const END: usize = 10;

/// Words about a loss that has not fallen in its first [`STEPS`] steps, by more than chance between batches or a half
/// percent; None where it has, or where there were fewer steps.
pub fn explain(steps: &[StepRecord], settings: &Settings) -> Option<String> {
    let steps = steps.get(..STEPS)?;
    let [first, last] = [&steps[..END], &steps[STEPS - END..]].map(moments);
    let fallen = first.0 - last.0;
    let chance = ((first.1 + last.1) / END as f64).sqrt();
    if fallen > chance.max(0.005 * first.0.abs()) {
        return None;
    }
    let reasons = reasons(steps, settings).join("; ");
    Some(format!("the loss has not moved in {STEPS} steps ({:.4}, then {:.4}): {reasons}", first.0, last.0))
}

/// Mean and variance of the losses.
fn moments(steps: &[StepRecord]) -> (f64, f64) {
    let losses = || steps.iter().map(|s| f64::from(s.loss));
    let mean = losses().sum::<f64>() / steps.len() as f64;
    (mean, losses().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (steps.len() - 1) as f64)
}

fn reasons(steps: &[StepRecord], settings: &Settings) -> Vec<String> {
    let mut reasons = vec![];
    let rate = steps.iter().map(|s| s.learning_rate).fold(0.0, f64::max);
    let norm = steps.iter().map(|s| s.gradient_norm).fold(0.0, f32::max);
    let no_loss = steps.iter().all(|s| s.loss == 0.0);
    if no_loss && settings.loss == Loss::Triplet {
        reasons
            .push("it is 0: every pair is nearer than its negatives by the margin; raise --margin or --batch".into());
    } else if no_loss {
        reasons.push("it is 0: the model tells all pairs of a batch apart already; raise --batch".into());
    } else if norm < 1e-6 {
        reasons.push(format!(
            "the gradient is almost nothing (norm {norm:.1e}): look at --target, --blocks and --pooling"
        ));
    }
    if rate < 1e-5 {
        reasons.push(format!("the learning rate has not been above {rate:.1e}: raise --lr"));
    } else if settings.warmup > STEPS {
        reasons.push(format!("warm-up goes on until step {}: wait, or lower --warmup", settings.warmup));
    }
    if settings.clip.is_some_and(|clip| clip < 0.01 * norm) {
        reasons.push("the gradient is clipped to less than a hundredth: raise --clip".into());
    }
    if reasons.is_empty() {
        reasons.push("raise --lr, or see whether the pairs are translations of each other and --target is a layer that tells words apart".into());
    }
    reasons
}
