//! The norm of a gradient over many tensors, and its scaling (Pascanu et al. 2013, arXiv 1211.5063).

use super::check::{Check, F32};
use crate::device::{Device, Tensor};

/// Adds the sum of squares of `gradient` to `total`.
///
/// - `gradient`: f32, any shape
/// - `total`: `[1]`, f32, added to
///
/// Summed in f64 over chunks of a fixed size, so that the result does not depend on the number of threads.
pub fn add_squared_norm(gradient: &Tensor, total: &mut Tensor) -> super::Result {
    let check = Check::new("clip", gradient);
    check.dtype("gradient", gradient, F32)?;
    check.tensor("total", total, &[1], F32)?;
    match check.device() {
        Device::Cpu => {
            let sum = cpu::squared_norm(gradient.as_slice()?);
            let total = total.as_mut_slice::<f32>()?;
            total[0] += sum;
            Ok(())
        }
        Device::Cuda(gpu) => Ok(gpu.launch(&cuda::add_squared_norm(gradient, total)?)?),
    }
}

/// Multiplies `gradient` by `factor`.
///
/// - `gradient`: f32, any shape
pub fn scale(gradient: &mut Tensor, factor: f32) -> super::Result {
    let check = Check::new("clip", gradient);
    check.dtype("gradient", gradient, F32)?;
    match check.device() {
        Device::Cpu => {
            cpu::scale(gradient.as_mut_slice()?, factor);
            Ok(())
        }
        Device::Cuda(gpu) if !gradient.is_empty() => Ok(gpu.launch(&cuda::scale(gradient, factor)?)?),
        Device::Cuda(_) => Ok(()),
    }
}

/// The reference.
pub mod cpu {
    use rayon::prelude::*;

    const CHUNK: usize = 1 << 14;

    /// Sum of squares.
    pub fn squared_norm(x: &[f32]) -> f32 {
        let partial = |chunk: &[f32]| chunk.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let sums: Vec<f64> = x.par_chunks(CHUNK).map(partial).collect();
        sums.iter().sum::<f64>() as f32
    }

    /// See [`super::scale`].
    pub fn scale(x: &mut [f32], factor: f32) {
        x.par_chunks_mut(CHUNK).flatten().for_each(|v| *v *= factor);
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::{ScaleParams, SquaredNormParams};

    /// Threads of the one block that sums.
    const THREADS: u32 = 1024;

    pub fn add_squared_norm(gradient: &Tensor, total: &Tensor) -> Result<Launch> {
        let (address, total) = (gradient.address()?, total.address()?);
        let params = SquaredNormParams { gradient: address, total, count: gradient.len() as u64 };
        Ok(Launch::new("clip", "clip_add_squared_norm", [1, 1, 1], THREADS, params))
    }

    pub fn scale(gradient: &Tensor, factor: f32) -> Result<Launch> {
        let count = gradient.len();
        let params = ScaleParams { x: gradient.address()?, count: count as u64, factor, zero: 0 };
        Ok(eight_a_thread("clip", "clip_scale", count, params))
    }
}
