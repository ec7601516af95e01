//! What a run records: the lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// One step's line in `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From 1.
    pub step: usize,
    /// From 1.
    pub epoch: usize,
    /// The batch's loss before the update.
    pub loss: f32,
    /// The rate of this update.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Wall time since the step before was seen to end, milliseconds.
    pub milliseconds: f64,
}

/// The line in `metrics.jsonl` of a step that changed nothing, because its loss or gradient is not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedRecord {
    /// The step, from 1.
    pub skipped: usize,
    /// From 1.
    pub epoch: usize,
    /// The batch, in words.
    pub pairs: String,
}

/// One epoch's line in `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1; 0 is the state before training.
    pub epoch: usize,
    /// Mean loss of the epoch's steps; none before training.
    pub mean_loss: Option<f32>,
    /// Mean cosine of the development pairs at the target layer.
    pub dev_cosine: Option<f64>,
    /// The same of shuffled pairs.
    pub dev_shuffled_cosine: Option<f64>,
    /// Precision@1 of word retrieval among the development pairs, mean of both directions.
    pub dev_precision_at_1: Option<f64>,
    /// Whether the embeddings have collapsed by then.
    pub collapsed: bool,
}

/// A run's history, for its pictures.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every step.
    pub steps: Vec<StepRecord>,
    /// Every epoch, from 0.
    pub epochs: Vec<EpochRecord>,
}
