//! The verdict: a paragraph that follows from intervals and p-values alone.

use super::{ArmRuns, Duel, Findings, Gain};
use crate::retrieval::comparison::Difference;
use crate::training::arms::Arm;

impl Findings {
    /// The verdict of these figures.
    pub(super) fn in_words(&self, arms: &[ArmRuns]) -> String {
        let against = |other: Arm| self.duels.iter().find(|d| d.arms == [Arm::Lora2, other]);
        let question = against(Arm::FullFinal);
        let told: Vec<Arm> = question.map_or(arms.iter().map(|a| a.arm).collect(), |duel| duel.arms.to_vec());
        let asked = if self.primary.view == "english" { "Questions in other languages" } else { "Questions" };
        let gains: Vec<&Gain> = told.iter().filter_map(|&arm| self.of_arm(arm)).collect();
        let mut sentences = vec![format!(
            "{asked} over {} passages of {}, accuracy@1 (chance {:.3}): {}.",
            self.primary.paragraphs,
            self.primary.data,
            self.chance,
            gains.iter().map(|gain| gain_in_words(gain)).collect::<Vec<_>>().join("; ")
        )];
        match question {
            Some(duel) => sentences.extend(duel_in_words(duel)),
            None => {
                let detectable = gains.iter().map(|g| g.gain.detectable).fold(0.0, f64::max);
                sentences.push(power_in_words("gain", detectable));
            }
        }
        if let Some(Duel { accuracy, .. }) = against(Arm::Shuffled) {
            sentences.push(format!(
                "lora@2 less the same training on mismatched pairs: {:+.3}, p {:.4}: {}.",
                accuracy.estimate,
                accuracy.p,
                sign_in_words(accuracy, "the pairs' meaning is part of it", "mismatched pairs do better")
            ));
        }
        let collapsed: Vec<String> = arms.iter().filter_map(collapsed_in_words).collect();
        if !collapsed.is_empty() {
            sentences.push(format!("Collapsed, with every embedding moving to one point: {}.", collapsed.join(", ")));
        }
        sentences.join(" ")
    }
}

/// An arm, where training has moved every embedding to one point, and with how many of its seeds.
fn collapsed_in_words(arm: &ArmRuns) -> Option<String> {
    let (all, collapsed) = (arm.runs.len(), arm.runs.iter().filter(|(run, _)| run.collapsed).count());
    match collapsed {
        0 => None,
        n if n == all => Some(arm.arm.to_string()),
        n => Some(format!("{} ({n} of {all} seeds)", arm.arm)),
    }
}

fn gain_in_words(g: &Gain) -> String {
    let shown = match (is_shown(&g.gain), g.gain.estimate.value > 0.0) {
        (false, _) => "no difference shown",
        (true, true) => "a gain",
        (true, false) => "a loss",
    };
    format!(
        "{} finds {:.3} (base at the same layer {:.3}; {:+.3}, p {:.4}: {shown})",
        g.arm, g.accuracy, g.base.value, g.gain.estimate, g.gain.p
    )
}

fn duel_in_words(Duel { arms: [first, second], accuracy, gain }: &Duel) -> [String; 3] {
    let better = |arm: &Arm| format!("{arm} retrieves better");
    let gains_more = |arm: &Arm| format!("{arm} gains more");
    [
        format!(
            "{first} less {second}: {:+.3}, p {:.4}: {}.",
            accuracy.estimate,
            accuracy.p,
            sign_in_words(accuracy, &better(first), &better(second))
        ),
        format!(
            "Of their gains over the base, each at its own layer: {:+.3}, p {:.4}: {}.",
            gain.estimate,
            gain.p,
            sign_in_words(gain, &gains_more(first), &gains_more(second))
        ),
        power_in_words("difference", accuracy.detectable),
    ]
}

fn power_in_words(what: &str, detectable: f64) -> String {
    if detectable == 0.0 {
        return format!(
            "Not one question's answer tells them apart: what {what} could have been seen, these data do not say."
        );
    }
    format!(
        "A true {what} below {detectable:.3} would be found less often than four times in five with these questions and seeds."
    )
}

/// An interval and its p must agree.
fn is_shown(difference: &Difference) -> bool {
    difference.estimate.excludes_zero() && difference.p < 0.05
}

/// What a difference shows, if anything.
fn sign_in_words(difference: &Difference, above: &str, below: &str) -> String {
    match (is_shown(difference), difference.estimate.value > 0.0) {
        (false, _) => "no difference shown".into(),
        (true, true) => above.into(),
        (true, false) => below.into(),
    }
}
