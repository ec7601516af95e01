//! Weights of random normal values, made on the device: a model of any size without a file, for benchmarks and tests
//! alone.

use super::config::{Config, Projection};
use super::model::{Base, Model, Options, Weights, names};
use crate::device::{DType, Device, Tensor};
use crate::ops::linear::Weight;
use crate::ops::nf4::Nf4Tensor;
use crate::ops::normal::{self, Normal};
use crate::ops::{OpError, Result};
use sha2::{Digest, Sha256};

/// The standard deviation that transformers initialises a Llama with.
const SCALE: f32 = 0.02;

/// A model whose norms are ones and whose other weights are normal with a deviation of 0.02, rounded to bf16 before they
/// are held as `options` say: what [`weight`] draws, so the same as a checkpoint written from it. A weight that is
/// quantised is whole on the device in bf16 meanwhile.
pub fn model(config: &Config, options: Options, seed: u64) -> Result<Model> {
    let Options { device, base, .. } = options;
    Model::assemble(config, options, &mut Random { device, base, seed })
}

/// Bytes that making a model takes on its device beside the weights themselves.
pub fn device_bytes(config: &Config, base: Base) -> usize {
    let linear = Projection::ALL.into_iter().map(|p| config.shape(p).iter().product::<usize>());
    let drawn = match base {
        Base::Bf16 => 0,
        Base::Nf4 | Base::Nf4Double => linear.max().unwrap_or(0),
        Base::F32 => linear.chain([config.vocab_size * config.hidden_size]).max().unwrap_or(0),
    };
    drawn * DType::Bf16.size()
}

/// One weight by its name, bf16, as [`model`] draws it.
pub fn weight(name: &str, shape: &[usize], seed: u64, device: &Device) -> Result<Tensor> {
    if names::is_norm(name) {
        let ones = vec![1.0; shape.iter().product()];
        return Ok(Tensor::from_f32(device, DType::Bf16, ones, shape)?);
    }
    let [a, b, c, d] = Sha256::digest(name).first_chunk().copied().unwrap_or_default();
    let mut values = Tensor::uninitialized(device, DType::Bf16, shape)?;
    normal::fill(Normal { seed, stream: u32::from_le_bytes([a, b, c, d]), scale: SCALE }, &mut values)?;
    Ok(values)
}

struct Random<'a> {
    device: &'a Device,
    base: Base,
    seed: u64,
}

impl Weights for Random<'_> {
    type Error = OpError;

    fn dense(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let drawn = weight(name, shape, self.seed, self.device)?;
        match dtype {
            DType::Bf16 => Ok(drawn),
            // Small: norms, and the models of tests.
            other => Ok(Tensor::from_f32(self.device, other, drawn.to_f32()?, shape)?),
        }
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        match self.base {
            Base::F32 | Base::Bf16 => Ok(Weight::Dense(self.dense(name, &shape, self.base.dtype())?)),
            Base::Nf4 | Base::Nf4Double => {
                let drawn = weight(name, &shape, self.seed, self.device)?;
                Ok(Weight::Nf4(Nf4Tensor::quantize(&drawn, self.base == Base::Nf4Double)?))
            }
        }
    }
}
