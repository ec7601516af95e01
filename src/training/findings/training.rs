//! What the trainings of an arm took, and what they did beside retrieval.

use super::{ArmRuns, Endpoint, Run, all_hits};
use crate::training::arms::Arm;
use serde::Serialize;

/// An arm's trainings.
#[derive(Clone, Debug, Serialize)]
pub struct Training {
    /// The arm.
    pub arm: Arm,
    /// Parameters that learned.
    pub parameters: usize,
    /// The learning rate that was chosen.
    pub learning_rate: Option<f64>,
    /// Those that were tried, ascending, with the development pairs' mean reciprocal rank.
    pub rates: Vec<(f64, f64)>,
    /// The end of the rates that the best of them is at: a better one may lie beyond.
    pub edge: Option<Edge>,
    /// Seeds in which every embedding moved to one point.
    pub collapsed: usize,
    /// Mean loss of each seed's last epoch.
    pub losses: Vec<Option<f32>>,
    /// Accuracy@1 of each seed on the primary endpoint.
    pub accuracies: Vec<f64>,
    /// Wall time of training alone, seconds, mean over seeds.
    pub seconds: f64,
    /// Bytes held on the device at most, where it counts.
    pub peak: Option<usize>,
    /// Perplexity of the text before training, and after it, mean over seeds.
    pub perplexity: Option<[f64; 2]>,
}

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The lowest.
    Lowest,
    /// The highest.
    Highest,
}

impl Training {
    pub(super) fn of(arm: &ArmRuns, primary: &Endpoint) -> Training {
        let accuracy = |run| {
            let (hits, _) = all_hits(primary, run, &arm.target);
            hits.iter().sum::<f64>() / hits.len().max(1) as f64
        };
        let runs: Vec<&Run> = arm.runs.iter().map(|(run, _)| run).collect();
        let after = mean(&runs, |run| run.perplexity);
        Training {
            arm: arm.arm,
            parameters: runs.first().map_or(0, |run| run.parameters),
            learning_rate: runs.first().and_then(|run| run.learning_rate),
            edge: edge(&arm.rates),
            rates: arm.rates.clone(),
            collapsed: runs.iter().filter(|run| run.collapsed).count(),
            losses: runs.iter().map(|run| run.final_loss).collect(),
            accuracies: arm.runs.iter().map(accuracy).collect(),
            seconds: mean(&runs, |run| Some(run.seconds)).unwrap_or(0.0),
            peak: runs.iter().filter_map(|run| run.peak).max(),
            perplexity: arm.base.0.perplexity.zip(after).map(|(before, after)| [before, after]),
        }
    }

    /// Mean of the losses, where all are known.
    pub(super) fn loss(&self) -> Option<f64> {
        let known: Option<Vec<f32>> = self.losses.iter().copied().collect();
        known.filter(|k| !k.is_empty()).map(|k| k.iter().map(|&l| f64::from(l)).sum::<f64>() / k.len() as f64)
    }
}

/// None unless every run has it.
fn mean(runs: &[&Run], of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = runs.iter().map(|run| of(run)).collect();
    values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
}

/// The end of the rates, which ascend, that the best of them is at.
fn edge(rates: &[(f64, f64)]) -> Option<Edge> {
    let best = rates.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max);
    match rates.iter().position(|r| r.1 == best).filter(|_| rates.len() > 1)? {
        0 => Some(Edge::Lowest),
        last if last + 1 == rates.len() => Some(Edge::Highest),
        _ => None,
    }
}
