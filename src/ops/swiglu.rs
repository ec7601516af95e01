//! The gated activation of the feed-forward network (SwiGLU; Shazeer 2020, arXiv 2002.05202).
//!
//! `y = silu(gate) * up`, with `silu(g) = g * sigmoid(g)`.
//!
//! # Cost and error
//!
//! - Cost: forward moves `3 * b` bytes an element, backward `5 * b`; an exponential and 4, or 9, FLOPs.
//! - Error: 1e-6, gradients too; a GPU within 1e-6 of the CPU.

use super::check::{Check, FLOAT};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// `y = silu(gate) * up`.
///
/// - `gate`, `up`, `y`: any shape, f32 or bf16, the same of all
pub fn forward(gate: &Tensor, up: &Tensor, y: &mut Tensor) -> super::Result {
    let check = Check::new("swiglu", gate);
    check.dtype("gate", gate, FLOAT)?;
    check.like("up", up, gate)?;
    check.like("y", y, gate)?;
    match check.device() {
        Device::Cpu => with_float!(gate.dtype(), T => cpu::forward::<T>(
            gate.as_slice()?, up.as_slice()?, y.as_mut_slice()?)),
        Device::Cuda(gpu) if !gate.is_empty() => gpu.launch(&cuda::forward(gate, up, y)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Gradients of [`forward`].
///
/// With `s = sigmoid(gate)`: `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`.
///
/// - all: the same shape and type, f32 or bf16
pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor, dgate: &mut Tensor, dup: &mut Tensor) -> super::Result {
    let check = Check::new("swiglu backward", gate);
    check.dtype("gate", gate, FLOAT)?;
    check.like("dy", dy, gate)?;
    check.like("up", up, gate)?;
    check.like("dgate", dgate, gate)?;
    check.like("dup", dup, gate)?;
    match check.device() {
        Device::Cpu => with_float!(gate.dtype(), T => cpu::backward::<T>(
            dy.as_slice()?, gate.as_slice()?, up.as_slice()?, dgate.as_mut_slice()?, dup.as_mut_slice()?)),
        Device::Cuda(gpu) if !gate.is_empty() => gpu.launch(&cuda::backward(dy, gate, up, dgate, dup)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use crate::device::cpu::vectorised;
    use crate::ops::Float;
    use crate::ops::exp::exp;
    use rayon::prelude::*;

    /// Elements a task.
    const CHUNK: usize = 4096;

    #[inline(always)]
    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + exp(-x))
    }

    /// See [`super::forward`].
    pub fn forward<T: Float>(gate: &[T], up: &[T], y: &mut [T]) {
        let chunks = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(y.par_chunks_mut(CHUNK));
        chunks.for_each(|((gate, up), y)| vectorised(|| forward_chunk(gate, up, y)));
    }

    #[inline(always)]
    fn forward_chunk<T: Float>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((gate, up), y) in gate.iter().zip(up).zip(y) {
            let gate = gate.to_f32();
            *y = T::from_f32(gate * sigmoid(gate) * up.to_f32());
        }
    }

    /// See [`super::backward`].
    pub fn backward<T: Float>(dy: &[T], gate: &[T], up: &[T], dgate: &mut [T], dup: &mut [T]) {
        let inputs = dy.par_chunks(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
        let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
        inputs.zip(outputs).for_each(|(((dy, gate), up), (dgate, dup))| {
            vectorised(|| backward_chunk(dy, gate, up, dgate, dup));
        });
    }

    #[inline(always)]
    fn backward_chunk<T: Float>(dy: &[T], gate: &[T], up: &[T], dgate: &mut [T], dup: &mut [T]) {
        let inputs = dy.iter().zip(gate).zip(up);
        for (((dy, gate), up), (dgate, dup)) in inputs.zip(dgate.iter_mut().zip(dup)) {
            let (dy, gate, up) = (dy.to_f32(), gate.to_f32(), up.to_f32());
            let s = sigmoid(gate);
            *dgate = T::from_f32(dy * up * s * (1.0 + gate * (1.0 - s)));
            *dup = T::from_f32(dy * gate * s);
        }
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::SwigluParams;

    pub fn forward(gate: &Tensor, up: &Tensor, y: &Tensor) -> Result<Launch> {
        let params = SwigluParams {
            gate: gate.address()?,
            up: up.address()?,
            y: y.address()?,
            count: gate.len() as u64,
            ..Default::default()
        };
        Ok(eight_a_thread("swiglu", kernel_for!(gate.dtype(), "swiglu_forward"), gate.len(), params))
    }

    pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor, dgate: &Tensor, dup: &Tensor) -> Result<Launch> {
        let params = SwigluParams {
            gate: gate.address()?,
            up: up.address()?,
            y: 0,
            dy: dy.address()?,
            dgate: dgate.address()?,
            dup: dup.address()?,
            count: gate.len() as u64,
        };
        Ok(eight_a_thread("swiglu", kernel_for!(gate.dtype(), "swiglu_backward"), gate.len(), params))
    }
}
