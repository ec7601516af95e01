//! An adapter made part of the weights: `W + scale B A`, added in f32 and rounded to bf16 once.

use crate::device::{DType, Device, Tensor};
use crate::formats::nf4;
use crate::formats::output;
use crate::formats::peft::{Adapter, Factors};
use crate::formats::safetensors::{Checkpoint, TensorLayout, write_folder};
use crate::formats::tokenizer;
use crate::llama::config::{self, Config};
use crate::llama::model::{Base, names};
use crate::ops::gemm::{Layout, gemm};
use crate::ops::nf4::Nf4Tensor;
use anyhow::Result;
use half::bf16;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest file of a merged model, bytes: as transformers cuts them.
const SHARD: usize = 5_000_000_000;

/// Writes a base with an adapter in it into a folder that exists, in Hugging Face's layout, as bf16, one tensor after another:
/// the model is never in memory whole. Weights that are 4-bit in the files, or that the `precision` makes so, are dequantised.
/// `progress` hears of each tensor.
///
/// Returns the names of weights that the model should have and no file holds.
pub fn write(
    folder: &Path,
    checkpoint: &Checkpoint,
    config: &Config,
    adapter: &Adapter,
    precision: Base,
    progress: impl Fn(),
) -> Result<Vec<String>> {
    let (there, missing): (Vec<_>, Vec<_>) =
        names::all(config).into_iter().partition(|(name, _)| checkpoint.contains(name));
    let layout: Vec<TensorLayout> =
        there.iter().map(|(name, shape)| TensorLayout::new(name, DType::Bf16, shape)).collect();
    let adapted: BTreeMap<String, &Factors> =
        adapter.factors.iter().map(|(&(block, p), factors)| (names::linear(block, p), factors)).collect();
    write_folder(folder, layout, SHARD, |tensor| {
        let mut weight = read(checkpoint, tensor, precision)?;
        if let Some(factors) = adapted.get(&tensor.name) {
            add(&mut weight, factors, adapter.config.rank, adapter.config.scale())?;
        }
        progress();
        let rounded: Vec<bf16> = weight.as_slice::<f32>()?.iter().map(|&v| bf16::from_f32(v)).collect();
        anyhow::Ok(Cow::Owned(bytemuck::cast_slice(&rounded).to_vec()))
    })?;
    tokenizer::copy(checkpoint.path(), folder)?;
    output::write_file(&folder.join(config::FILE), config.stored_as("bfloat16")?.to_json())?;
    Ok(missing.into_iter().map(|(name, _)| name).collect())
}

/// A weight in f32 with the values that a base of this precision has.
fn read(checkpoint: &Checkpoint, tensor: &TensorLayout, precision: Base) -> Result<Tensor> {
    let (name, shape) = (&tensor.name, &tensor.shape);
    if let (true, &[out, input]) = (nf4::is_quantised(checkpoint, name), shape.as_slice()) {
        let weight = nf4::read(checkpoint, name, [out, input], &Device::Cpu)?;
        return Ok(Tensor::from_vec(&Device::Cpu, weight.to_f32()?, shape)?);
    }
    checkpoint.expect_shape(name, shape)?;
    let weight = checkpoint.read(name, DType::F32, &Device::Cpu)?;
    if !precision.is_quantised() || !is_linear(name) {
        return Ok(weight);
    }
    let weight = Nf4Tensor::quantize(&weight, precision == Base::Nf4Double)?;
    Ok(Tensor::from_vec(&Device::Cpu, weight.to_f32()?, shape)?)
}

/// True for the blocks' linear weights: what a 4-bit base holds in 4 bits.
fn is_linear(name: &str) -> bool {
    names::block(name).is_some() && !names::is_norm(name)
}

/// `weight += scale B A`.
fn add(weight: &mut Tensor, factors: &Factors, rank: usize, scale: f32) -> Result<()> {
    let [out, input] = [weight.rows(), weight.columns()];
    let scaled: Vec<f32> = factors.b.iter().map(|v| v * scale).collect();
    let b = Tensor::from_vec(&Device::Cpu, scaled, &[out, rank])?;
    let a = Tensor::from_slice(&Device::Cpu, &factors.a, &[rank, input])?;
    Ok(gemm(Layout::Nn, &b, &a, weight, true)?)
}
