//! Checkpoint folders of random weights, in Hugging Face's layout: of any size, for benchmarks and tests alone.

use super::output::{self, OutputError};
use super::safetensors::{CheckpointError, TensorLayout, cut, shard_name, write_index, write_safetensors};
use crate::device::{Device, DeviceError};
use crate::llama::config::{self, Config, ConfigError};
use crate::llama::model::names;
use crate::llama::random;
use crate::ops::OpError;
use crate::ops::convert::Stored;
use half::{bf16, f16};
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

/// Why a folder could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Weights cannot.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// Values cannot be drawn.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The configuration cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Of the values.
    pub seed: u64,
    /// How they are stored.
    pub stored: Stored,
    /// A file holds as many tensors as fit into so many bytes, one at least.
    pub shard_bytes: usize,
    /// Where values are drawn.
    pub device: &'a Device,
}

/// Writes the weights of [`random::model`] and their configuration into a new folder, in files as transformers cuts
/// them. `progress` is told the bytes of each tensor. No tokenizer is written.
pub fn write(
    folder: &Path,
    config: &Config,
    options: Options,
    progress: impl Fn(usize) + Sync,
) -> Result<(), RandomError> {
    output::create_new(folder)?;
    let (dtype, word) = match options.stored {
        Stored::F32 => (Dtype::F32, "float32"),
        Stored::F16 => (Dtype::F16, "float16"),
        Stored::Bf16 => (Dtype::BF16, "bfloat16"),
    };
    let tensors = names::all(config).into_iter().map(|(name, shape)| TensorLayout { name, dtype, shape });
    let shards = cut(tensors, options.shard_bytes);
    // On a GPU a thread a file: each waits for its values, its memory and its disk in turn.
    let write = |i: usize| shard_to_file(&folder.join(shard_name(i, shards.len())), &shards[i], options, &progress);
    match options.device {
        Device::Cpu => (0..shards.len()).try_for_each(write)?,
        Device::Cuda(_) => thread::scope(|scope| {
            let writers: Vec<_> = (0..shards.len())
                .map(|i| {
                    scope.spawn({
                        let write = &write;
                        move || write(i)
                    })
                })
                .collect();
            let joined = writers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.collect::<Vec<_>>().into_iter().collect::<Result<(), _>>()
        })?,
    }
    write_index(folder, &shards)?;
    Ok(output::write_file(&folder.join(config::FILE), config.stored_as(word)?.to_json())?)
}

fn shard_to_file(
    path: &Path,
    shard: &[TensorLayout],
    options: Options,
    progress: &(impl Fn(usize) + Sync),
) -> Result<(), RandomError> {
    let device = match options.device {
        Device::Cpu => Device::Cpu,
        Device::Cuda(gpu) => Device::Cuda(gpu.beside()?),
    };
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(path, shard, &metadata, |tensor| {
        let values = random::weight(&tensor.name, &tensor.shape, options.seed, &device)?.to_vec::<bf16>()?;
        progress(tensor.bytes());
        Ok::<_, RandomError>(Cow::Owned(match options.stored {
            Stored::Bf16 => bytemuck::cast_slice(&values).to_vec(),
            Stored::F16 => values.into_iter().flat_map(|v| f16::from_f32(v.to_f32()).to_le_bytes()).collect(),
            Stored::F32 => values.into_iter().flat_map(|v| v.to_f32().to_le_bytes()).collect(),
        }))
    })
}
