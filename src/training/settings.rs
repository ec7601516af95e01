//! A run's settings, resolved: what `config.json` in the run's folder records.

use crate::formats::tokenizer::Bos;
use crate::llama::Layer;
use crate::llama::config::{Config, Projection, Projections};
use crate::llama::model::Base;
use crate::ops::adamw::Precision;
use crate::ops::infonce::Direction;
use crate::ops::pooling::Pooling;
use crate::words::as_word;
use serde::{Deserialize, Serialize};

/// What learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Low-rank adapters beside frozen weights.
    Lora,
    /// All weights that the loss reaches.
    Full,
}
crate::words::words! { Method: "method" { Lora = "lora", Full = "full" } }

/// The loss on the embeddings of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// In-batch softmax over cosines (van den Oord et al. 2018, arXiv 1807.03748).
    Infonce,
    /// Margin against the hardest negative of the batch, as arXiv 2506.15415 trains.
    Triplet,
}
crate::words::words! { Loss: "loss" { Infonce = "infonce", Triplet = "triplet" } }

/// How the learning rate moves after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// To zero at the last step, in a line.
    Linear,
    /// To zero at the last step, along half a cosine.
    Cosine,
    /// Not at all.
    Constant,
}
crate::words::words! { Decay: "schedule" { Linear = "linear", Cosine = "cosine", Constant = "constant" } }

/// Where weights learn that the model holds in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Master {
    /// In an f32 copy, whose values are rounded to nearest for the model: 4 bytes a weight.
    #[default]
    F32,
    /// In place, rounded at random: small updates are kept on average.
    None,
}
crate::words::words! { Master: "master copy" { F32 = "f32", None = "none" } }

/// When weights change in full training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Together, when all gradients are known: 4 bytes a weight hold them.
    #[default]
    Together,
    /// A matrix as soon as its own gradient is, which is not kept. A clip of the norm takes a second backward pass.
    AtOnce,
}
crate::words::words! { When: "time of update" { Together = "together", AtOnce = "at-once" } }

/// When the 4-bit weights of frozen blocks are dequantised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dequantize {
    /// Once on a GPU that has room for it, else at each step.
    #[default]
    Auto,
    /// Once: the blocks that steps run are held in bf16, with the values of their codes.
    Once,
    /// At each step.
    EachStep,
}
crate::words::words! { Dequantize: "time to dequantise" { Auto = "auto", Once = "once", EachStep = "each-step" } }

/// Whether activations are kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Of all blocks.
    #[default]
    All,
    /// The states between blocks alone: the backward pass computes each block's again.
    States,
}
crate::words::words! { Keep: "choice of activations" { All = "all", States = "states" } }

/// A whole recipe to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// What learns on a real model: symmetric InfoNCE over all projections.
    Clean,
    /// The recipe of arXiv 2506.15415, which collapses on the models measured.
    Paper,
}
crate::words::words! { Preset: "preset" { Clean = "clean", Paper = "paper" } }

/// Every choice of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The recipe that the other values came from, unless they were given.
    pub preset: Preset,
    /// What learns.
    pub method: Method,
    /// How the frozen weights are held.
    pub base: Base,
    /// Blocks that hold adapters; empty for full training.
    pub blocks: Vec<usize>,
    /// Where the loss reads.
    pub target: Layer,
    /// Full training leaves the embedding as it is.
    #[serde(default)]
    pub freeze_embedding: bool,
    /// Rank of the adapters.
    pub rank: usize,
    /// Their scale is `alpha / rank`.
    pub alpha: f32,
    /// Dropout on their inputs.
    pub dropout: f32,
    /// The linear layers that have adapters.
    #[serde(with = "as_word")]
    pub projections: Projections,
    /// The loss.
    pub loss: Loss,
    /// Divides the cosines (InfoNCE).
    pub temperature: f32,
    /// Margin of the triplet loss.
    pub margin: f32,
    /// Source to target alone, or both ways.
    #[serde(with = "as_word")]
    pub direction: Direction,
    /// Times each pair is seen.
    pub epochs: usize,
    /// Pairs a step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// What follows the warm-up.
    pub schedule: Decay,
    /// Largest norm of the gradient, over all that learns.
    pub clip: Option<f32>,
    /// Pairs whose activations are held at once; the loss is that of the whole batch. Without it, all of a batch.
    pub chunk: Option<usize>,
    /// When 4-bit weights are dequantised.
    pub dequantize: Dequantize,
    /// What AdamW's moments are kept in.
    pub moments: Precision,
    /// Where bf16 weights learn.
    pub master: Master,
    /// When weights change.
    pub update: When,
    /// What is kept of the forward pass.
    pub keep: Keep,
    /// Seeds the adapters' start, the order of pairs, dropout and every resampling.
    pub seed: u64,
    /// A new order of pairs each epoch.
    pub shuffle: bool,
    /// How training turns a sequence into one vector.
    #[serde(with = "as_word")]
    pub training_pooling: Pooling,
    /// How evaluation does.
    #[serde(with = "as_word")]
    pub pooling: Pooling,
    /// Whether BOS is put in front.
    #[serde(with = "as_word")]
    pub bos: Bos,
    /// Longest sequence, tokens; longer ones are cut.
    pub max_length: usize,
}

impl Settings {
    /// A preset for a method on a model.
    pub fn preset(preset: Preset, method: Method, config: &Config) -> Settings {
        let full = method == Method::Full;
        let clean = Settings {
            preset,
            method,
            base: Base::Bf16,
            blocks: if full { vec![] } else { (0..2.min(config.layers)).collect() },
            target: Layer::Hidden(2.min(config.layers)),
            freeze_embedding: false,
            rank: 16,
            alpha: 32.0,
            dropout: 0.05,
            projections: Projections::all(),
            loss: Loss::Infonce,
            temperature: 0.05,
            margin: 0.4,
            direction: Direction::Both,
            epochs: 20,
            batch: 64,
            learning_rate: if full { 2e-4 } else { 1e-3 },
            warmup: 50,
            weight_decay: 0.01,
            schedule: Decay::Linear,
            clip: None,
            chunk: None,
            dequantize: Dequantize::default(),
            moments: Precision::default(),
            master: Master::default(),
            update: When::default(),
            keep: Keep::default(),
            seed: 0,
            shuffle: true,
            training_pooling: Pooling::MeanNoSink,
            pooling: Pooling::MeanNoSink,
            bos: Bos::Add,
            max_length: config.max_positions,
        };
        match preset {
            Preset::Clean => clean,
            Preset::Paper => Settings {
                blocks: if full { vec![] } else { (0..config.layers).collect() },
                projections: [Projection::Q, Projection::V].into_iter().collect(),
                loss: Loss::Triplet,
                direction: Direction::Forward,
                epochs: 5,
                batch: 8,
                learning_rate: if full { 2e-5 } else { 2e-4 },
                base: if full { Base::Bf16 } else { Base::Nf4 },
                training_pooling: Pooling::Mean,
                ..clean
            },
        }
    }

    /// Scale of the adapters.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}
