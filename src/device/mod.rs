//! Where tensors live and kernels run.
//!
//! [`Device::Cpu`] holds plain vectors and runs the reference code of every op. [`Device::Cuda`] holds a
//! [`Gpu`], which is any [`Executor`] of CUDA kernels: the driver ([`cuda::Driver`]), or in this project's
//! tests an emulator that runs the same kernel sources on the CPU.
//!
//! Nothing is global: a process may hold several GPUs, and several streams of one.
//!
//! # Streams and memory of a caller
//!
//! Who has a stream and memory of [`cudarc`]'s already keeps them: [`Gpu::on_stream`] launches there, and
//! tensors are made of slices without copying. [`Tensor::borrow`] reads a slice or a part of one,
//! [`Tensor::borrow_mut`] writes a whole slice, [`Tensor::adopt`] takes one over until [`Tensor::into_slice`], and the
//! unsafe [`Tensor::from_raw`] takes any address.
//!
//! Ops run in order with all else that the caller puts on the stream, and return before they have run. Where a slice was last
//! used on another stream, cudarc's event tracking decides: in a context that tracks events (the default, once it has a
//! second stream), the GPU's stream waits for those uses when the tensor is made, and other streams wait for the
//! tensor's uses once it is dropped or given back. In a context whose caller has disabled event tracking,
//! ordering streams is the caller's work, as it is everywhere in cudarc. Streams that order nothing between
//! themselves must not share a tensor while it lives.
//!
//! Device memory is allocated by tensors that are made, and by a [workspace](Gpu::reserve) that has to grow; kernels are
//! loaded when they are first launched. A second call of an op allocates nothing.

pub mod cpu;
pub mod cuda;
mod error;
mod launch;
mod pinned;
mod slices;
mod tensor;

pub use error::DeviceError;
pub use launch::{Executor, Gpu, Launch, Mark, Memory, Recording, TensorMap};
pub use pinned::{Pinned, Staging};
pub use slices::{Borrowed, BorrowedMut};
pub use tensor::{DType, Element, Tensor};

/// The processor a tensor belongs to.
#[derive(Clone, Debug)]
pub enum Device {
    /// The host: reference implementations in Rust.
    Cpu,
    /// A GPU, or an emulator of one.
    Cuda(Gpu),
}

impl Device {
    /// The first CUDA device, or why there is none.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device::Cuda(Gpu::new(cuda::Driver::new(ordinal)?)))
    }

    /// The same for a thread of several that use the device at once, each by a handle of its own
    /// ([`cuda::Driver::pooled`]).
    pub fn cuda_pooled(ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device::Cuda(Gpu::new(cuda::Driver::new(ordinal)?.pooled()?)))
    }

    /// True for the host.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }

    /// A mark behind everything launched so far; on the CPU that has ended.
    pub fn mark(&self) -> Result<Mark, DeviceError> {
        match self {
            Device::Cpu => Ok(Mark::passed()),
            Device::Cuda(gpu) => gpu.mark(),
        }
    }

    /// Waits until everything launched so far has ended. Does nothing on the CPU.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(gpu) => gpu.synchronize(),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Device::Cpu, Device::Cpu) => true,
            (Device::Cuda(a), Device::Cuda(b)) => a == b,
            _ => false,
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) => f.write_str(gpu.name()),
        }
    }
}
