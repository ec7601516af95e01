//! What a run needs, found before anything is loaded: blocks to read, to run and to train, and their bytes.

use super::settings::{Keep, Master, Method, Preset, Settings, When};
use crate::device::{DType, Device, Gpu};
use crate::llama::activations::{Activations, Scratch};
use crate::llama::config::{Config, Projection};
use crate::llama::model::Base;
use crate::llama::plan::weight_bytes;
use crate::llama::{Layer, Parts};
use crate::ops::adamw::{self, Moments};

/// A combination that cannot learn, or that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Blocks that a training step needs, from the bottom.
    pub blocks: usize,
    /// The frozen blocks below the first that learns: run once, for all pairs.
    pub prefix: usize,
    /// The adapted blocks that the loss reaches; for full training, all that it reaches.
    pub learning: Vec<usize>,
    /// The adapted blocks that the loss does not reach: their adapters stay zero.
    pub idle: Vec<usize>,
    /// Whether the embedding learns.
    pub embedding: bool,
    /// Whether the final norm learns.
    pub final_norm: bool,
    /// Parameters that learn.
    pub parameters: usize,
    /// What is read from the checkpoint for training and for the layers that are reported.
    pub parts: Parts,
}

impl Plan {
    /// Checks that the settings can learn, and finds what they need. `reported` are the layers that evaluation
    /// reads before and after.
    pub fn new(settings: &Settings, config: &Config, reported: &[Layer]) -> Result<Plan, PlanError> {
        let refuse = |message: String| Err(PlanError(message));
        let top = settings.target.blocks(config);
        if top > config.layers {
            return refuse(format!("target {top} is above the model's last state, {}", config.layers));
        }
        let learning: Vec<usize>;
        let mut idle = vec![];
        match settings.method {
            Method::Full => {
                if matches!(settings.base, Base::Nf4 | Base::Nf4Double) {
                    return refuse(format!(
                        "--method full cannot train a {} base: 4-bit codes have no gradient. Use --base bf16 or f32",
                        settings.base
                    ));
                }
                if settings.chunk.is_some() && settings.update == When::AtOnce {
                    return refuse(
                        "--chunk adds up the gradients of a batch's parts, and --update at-once keeps none to add to. Use --update together"
                            .into(),
                    );
                }
                if !settings.blocks.is_empty() {
                    return refuse(
                        "--blocks says where adapters sit, and --method full has none: it trains all that --target reaches"
                            .into(),
                    );
                }
                learning = (0..top).collect();
            }
            Method::Lora => {
                if settings.update == When::AtOnce {
                    return refuse(
                        "--update at-once is for --method full: the gradients of adapters take no memory to speak of"
                            .into(),
                    );
                }
                if let Some(block) = settings.blocks.iter().find(|&&b| b >= config.layers) {
                    return refuse(format!(
                        "--blocks names block {block}, and the model has {} (0 is the first)",
                        config.layers
                    ));
                }
                (learning, idle) = settings.blocks.iter().partition(|&&b| b < top);
                if learning.is_empty() {
                    let lowest = settings.blocks.iter().min().map_or(1, |b| b + 1);
                    return refuse(format!(
                        "no adapter can learn: the loss reads the state after {top} blocks, and the adapters sit in {}. Use --target {lowest} or higher, or blocks below {top}",
                        blocks_in_words(&settings.blocks)
                    ));
                }
                if !idle.is_empty() && settings.preset != Preset::Paper {
                    return refuse(format!(
                        "adapters in {} cannot learn: the loss reads the state after {top} blocks. Leave them out of --blocks, or raise --target",
                        blocks_in_words(&idle)
                    ));
                }
                if settings.projections.is_empty() || settings.rank == 0 {
                    return refuse("no adapter to train: --projections is empty or --rank is 0".into());
                }
            }
        }
        let full = settings.method == Method::Full;
        let final_norm = full && settings.target == Layer::Final;
        let prefix = if full { 0 } else { learning.iter().min().copied().unwrap_or(0) };
        let parts = Parts {
            blocks: reported.iter().map(|l| l.blocks(config)).max().unwrap_or(0).max(top),
            final_norm: settings.target == Layer::Final || reported.contains(&Layer::Final),
            head: false,
        };
        let parameters = match settings.method {
            Method::Full => {
                let norm = if final_norm { config.hidden_size } else { 0 };
                let embedding = if settings.freeze_embedding { 0 } else { config.vocab_size * config.hidden_size };
                embedding + learning.len() * config.block_parameters() + norm
            }
            Method::Lora => {
                let shapes = settings.projections.iter().map(|&p| config.shape(p));
                learning.len() * shapes.map(|[out, input]| settings.rank * (out + input)).sum::<usize>()
            }
        };
        let embedding = full && !settings.freeze_embedding;
        Ok(Plan { blocks: top, prefix, learning, idle, embedding, final_norm, parameters, parts })
    }

    /// Bytes of memory by use, for a batch of `tokens` tokens; `cached` tokens are kept after the prefix.
    pub fn memory(
        &self,
        settings: &Settings,
        config: &Config,
        device: &Device,
        compute: DType,
        tokens: usize,
        cached: usize,
    ) -> Memory {
        let rank = if settings.method == Method::Lora { settings.rank } else { 0 };
        let state = config.hidden_size * compute.size();
        let blocks = self.blocks - self.prefix;
        let kept = if settings.keep == Keep::States { blocks.min(1) } else { blocks };
        Memory {
            weights: weight_bytes(config, self.parts, settings.base),
            learning: self.learning_bytes(settings, config, device, tokens),
            prefix: if self.prefix > 0 { cached * state } else { 0 },
            activations: kept * Activations::bytes(config, compute, tokens, rank)
                + (blocks + 2) * tokens * state
                + Scratch::bytes(config, compute, tokens, rank),
        }
    }
}

impl Plan {
    /// Gradients, moments and f32 copies.
    fn learning_bytes(&self, settings: &Settings, config: &Config, device: &Device, tokens: usize) -> usize {
        let (parameters, f32) = (self.parameters, DType::F32.size());
        let moments = Moments::bytes(settings.moments, parameters);
        if settings.method == Method::Lora {
            return parameters * f32 + moments;
        }
        let master = if settings.base == Base::F32 || settings.master == Master::None { 0 } else { parameters * f32 };
        let gradients = match settings.update {
            When::Together => parameters * f32,
            // Of norms, and of one matrix at a time.
            When::AtOnce => {
                let linear: usize = Projection::ALL.map(|p| config.shape(p).iter().product::<usize>()).iter().sum();
                let embedding = if self.embedding { config.vocab_size * config.hidden_size } else { 0 };
                let kept = parameters - self.learning.len() * linear - embedding;
                kept * f32 + updates_workspace(config, device, settings, tokens)
            }
        };
        gradients + moments + master
    }
}

/// Bytes of the workspace that updates of matrices [at once](When::AtOnce) need: for a gradient of one of them at most.
pub fn updates_workspace(config: &Config, device: &Device, settings: &Settings, tokens: usize) -> usize {
    let table = (!settings.freeze_embedding).then_some([config.vocab_size, config.hidden_size]);
    let linear = Projection::ALL.map(|p| config.shape(p));
    let (dtype, moments) = (settings.base.dtype(), settings.moments);
    let bytes = |shape: [usize; 2], gpu: Option<&Gpu>, is_table: bool| match gpu {
        None => shape[0] * shape[1] * DType::F32.size(),
        Some(gpu) if is_table => adamw::update_embedding_workspace(gpu, tokens, shape, moments),
        Some(gpu) => adamw::update_linear_workspace(gpu, tokens, dtype, shape, moments),
    };
    let gpu = match device {
        Device::Cpu => None,
        Device::Cuda(gpu) => Some(gpu),
    };
    let linear = linear.into_iter().map(|shape| bytes(shape, gpu, false));
    linear.chain(table.map(|shape| bytes(shape, gpu, true))).max().unwrap_or(0)
}

/// Bytes by use.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Weights that were read.
    pub weights: usize,
    /// Gradients, optimizer states, and f32 copies of what learns.
    pub learning: usize,
    /// States after the frozen prefix, of all pairs.
    pub prefix: usize,
    /// Activations and their gradients.
    pub activations: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.learning + self.prefix + self.activations
    }
}

/// `blocks 0 to 3`, `block 5`, or a list.
pub fn blocks_in_words(blocks: &[usize]) -> String {
    match blocks {
        [] => "no block".into(),
        [one] => format!("block {one}"),
        [first, .., last] if last - first + 1 == blocks.len() => format!("blocks {first} to {last}"),
        many => format!("blocks {}", many.iter().map(|b| b.to_string()).collect::<Vec<_>>().join(", ")),
    }
}
