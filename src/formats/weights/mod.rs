//! Reading a model's weights: only those that a plan needs, converted or quantised as they are read.
//!
//! On the CPU a tensor is read by all threads of the pool. To a GPU bytes go through small pinned buffers, several
//! threads at a time, and are converted or quantised there ([`Transfer`]), so that the host never holds the model.

mod host;
mod stream;

pub use crate::llama::model::Options;
pub use stream::Transfer;

use super::safetensors::{Checkpoint, CheckpointError};
use crate::device::{Device, DeviceError};
use crate::llama::config::Config;
use crate::llama::model::Model;
use crate::ops::OpError;

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

/// Reads a checkpoint. `progress` hears each tensor's name.
pub fn load(
    checkpoint: &Checkpoint,
    config: &Config,
    options: Options,
    progress: impl Fn(&str),
) -> Result<Model, LoadError> {
    load_with(checkpoint, config, options, Transfer::default(), progress)
}

/// The same with other buffers than the usual ones, where it goes to a GPU.
pub fn load_with(
    checkpoint: &Checkpoint,
    config: &Config,
    options: Options,
    transfer: Transfer,
    progress: impl Fn(&str),
) -> Result<Model, LoadError> {
    match options.device {
        Device::Cpu => {
            let mut reader = host::Reader { checkpoint, base: options.base, device: options.device, progress };
            Model::assemble(config, options, &mut reader)
        }
        Device::Cuda(gpu) => stream::load(checkpoint, config, options, gpu, transfer, progress),
    }
}
