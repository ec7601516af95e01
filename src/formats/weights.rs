//! Reading a model's weights: only those that a plan needs, converted or quantised as they are read.

use super::nf4;
use super::safetensors::{Checkpoint, CheckpointError};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::llama::PerProjection;
use crate::llama::config::{Config, Projection};
use crate::llama::model::{Base, Block, Model, Parts, names};
use crate::ops::OpError;
use crate::ops::linear::Weight;
use crate::ops::nf4::Nf4Tensor;

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing, damaged or not what it should be.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Quantising failed.
    #[error(transparent)]
    Op(#[from] OpError),
}

/// What is read, and into what.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The parts of the model.
    pub parts: Parts,
    /// How linear weights are held.
    pub base: Base,
    /// Element type of activations.
    pub compute: DType,
    /// Where it goes.
    pub device: &'a Device,
    /// The longest sequence, in tokens.
    pub positions: usize,
}

/// Reads a checkpoint. `progress` hears each tensor's name.
pub fn load(
    checkpoint: &Checkpoint,
    config: &Config,
    options: Options,
    progress: impl Fn(&str),
) -> Result<Model, LoadError> {
    let Options { parts, base, compute, device, positions } = options;
    let reader = Reader { checkpoint, config, base, device, progress };
    let hidden = config.hidden_size;
    let table = [config.vocab_size, hidden];
    Ok(Model {
        embedding: reader.dense(names::EMBEDDING, &table, base.dtype())?,
        blocks: (0..parts.blocks).map(|b| reader.block(b)).collect::<Result<_, _>>()?,
        final_norm: match parts.final_norm {
            true => Some(reader.dense(names::FINAL_NORM, &[hidden], DType::F32)?),
            false => None,
        },
        head: match parts.head && !config.tie_word_embeddings {
            true => Some(reader.dense(names::HEAD, &table, base.dtype())?),
            false => None,
        },
        rope: Model::rope_table(config, device, positions)?,
        config: config.clone(),
        device: device.clone(),
        compute,
    })
}

struct Reader<'a, P> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    base: Base,
    device: &'a Device,
    progress: P,
}

impl<P: Fn(&str)> Reader<'_, P> {
    fn block(&self, block: usize) -> Result<Block, LoadError> {
        let hidden = self.config.hidden_size;
        Ok(Block {
            input_norm: self.dense(&names::input_norm(block), &[hidden], DType::F32)?,
            post_norm: self.dense(&names::post_norm(block), &[hidden], DType::F32)?,
            linear: PerProjection::try_from_fn(|p| self.linear(block, p))?,
        })
    }

    fn dense(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        (self.progress)(name);
        self.checkpoint.expect_shape(name, shape)?;
        Ok(self.checkpoint.read(name, dtype, self.device)?)
    }

    fn linear(&self, block: usize, projection: Projection) -> Result<Weight, LoadError> {
        let name = names::linear(block, projection);
        let shape = self.config.shape(projection);
        // What bitsandbytes left out of the quantisation is dense in such a checkpoint too.
        if nf4::is_quantised(self.checkpoint, &name) {
            (self.progress)(&name);
            return Ok(Weight::Nf4(nf4::read(self.checkpoint, &name, shape, self.device)?));
        }
        let weight = match self.base {
            Base::F32 => Weight::Dense(self.dense(&name, &shape, DType::F32)?),
            Base::Bf16 => Weight::Dense(self.dense(&name, &shape, DType::Bf16)?),
            Base::Nf4 | Base::Nf4Double => {
                let weight = self.dense(&name, &shape, DType::F32)?;
                Weight::Nf4(Nf4Tensor::quantize(&weight, self.base == Base::Nf4Double)?)
            }
        };
        Ok(weight)
    }
}
