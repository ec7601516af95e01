//! Low-rank adapters beside the linear layers of some blocks (Hu et al. 2021, arXiv 2106.09685).

use super::PerProjection;
use super::config::{Config, Projection};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::lora::Factors;
use crate::ops::philox::Dropout;
use crate::ops::step::State;
use std::collections::BTreeMap;

/// The factors of one adapter: `delta W = scale * B A`.
#[derive(Debug)]
pub struct Lora {
    /// `[rank, in]` f32.
    pub a: Tensor,
    /// `[out, rank]` f32.
    pub b: Tensor,
}

impl Lora {
    /// Zeros of the shapes that `projection` needs.
    pub fn zeros(config: &Config, projection: Projection, rank: usize, device: &Device) -> Result<Lora, DeviceError> {
        let [out, input] = config.shape(projection);
        Ok(Lora {
            a: Tensor::zeros(device, DType::F32, &[rank, input])?,
            b: Tensor::zeros(device, DType::F32, &[out, rank])?,
        })
    }
}

/// The adapters of a block: none, some or all of its linear layers.
pub type BlockAdapters = PerProjection<Option<Lora>>;

/// The adapters of a model.
#[derive(Debug)]
pub struct Adapters {
    /// Width of the low-rank products.
    pub rank: usize,
    /// `alpha / rank`, or `alpha / sqrt(rank)` for a rank-stabilised adapter.
    pub scale: f32,
    /// By block.
    pub blocks: BTreeMap<usize, BlockAdapters>,
}

/// The dropout of one training step. Each adapter draws from a stream of its own.
#[derive(Clone, Copy, Debug)]
pub struct StepDropout<'a> {
    /// Share of the inputs that are dropped.
    pub probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// Tells the step.
    pub state: &'a State,
    /// The first token's place in the step's batch, where the pass is over a part of it.
    pub first_token: usize,
}

impl StepDropout<'_> {
    /// For the input of a layer, of so many columns.
    fn stream(&self, block: usize, projection: Projection, columns: usize) -> Dropout {
        let stream = (block * Projection::ALL.len() + projection as usize) as u32;
        let first = (self.first_token * columns) as u64;
        Dropout { probability: self.probability, seed: self.seed, stream, step: 0, first }
    }
}

/// One block's adapters as its forward and backward passes see them.
#[derive(Clone, Copy)]
pub struct Adapted<'a> {
    block: usize,
    scale: f32,
    factors: &'a BlockAdapters,
    dropout: Option<StepDropout<'a>>,
}

impl Adapters {
    /// All factors.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let factors = self.blocks.values().flat_map(|block| block.iter().filter_map(|(_, lora)| lora.as_ref()));
        factors.flat_map(|lora| [&lora.a, &lora.b])
    }

    /// What a block's passes need, or None for a block without adapters.
    pub fn of_block<'a>(&'a self, block: usize, dropout: Option<StepDropout<'a>>) -> Option<Adapted<'a>> {
        let factors = self.blocks.get(&block)?;
        let dropout = dropout.filter(|d| d.probability > 0.0);
        Some(Adapted { block, scale: self.scale, factors, dropout })
    }
}

impl<'a> Adapted<'a> {
    /// The adapter of one linear layer.
    pub fn factors(&self, projection: Projection) -> Option<Factors<'a>> {
        let lora = self.factors[projection].as_ref()?;
        let dropout = self.dropout.map(|d| d.stream(self.block, projection, lora.a.columns()));
        let state = self.dropout.map(|d| d.state);
        Some(Factors { a: &lora.a, b: &lora.b, scale: self.scale, dropout, state })
    }
}
