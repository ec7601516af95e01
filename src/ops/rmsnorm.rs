//! Root-mean-square layer normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).
//!
//! `y = x / rms(x) * weight`, with `rms(x) = sqrt(mean(x^2) + eps)` over each row.
//!
//! # Cost and error
//!
//! - Cost: forward moves `2 * b * tokens * hidden` bytes, with a residual twice as many, backward `4 * b` an element;
//!   4 and about 10 FLOPs an element.
//! - Workspace: backward with `dweight` sums in `4 * hidden` bytes a block, at most 16 blocks a multiprocessor.
//! - Error: 1e-6, gradients 1e-5; a GPU within 2e-6 of the CPU, and in bf16 at most twice the error of the CPU's
//!   bf16.
//!
//! # Example
//!
//! ```
//! use kiungo::device::{Device, Tensor};
//! use kiungo::ops::rmsnorm;
//!
//! let x = Tensor::from_slice(&Device::Cpu, &[3.0f32, -3.0, 1.0, 1.0], &[2, 2])?;
//! let weight = Tensor::from_slice(&Device::Cpu, &[1.0f32, 2.0], &[2])?;
//! let mut y = Tensor::from_slice(&Device::Cpu, &[0.0f32; 4], &[2, 2])?;
//! let mut inv_rms = Tensor::from_slice(&Device::Cpu, &[0.0f32; 2], &[2])?;
//! rmsnorm::forward(&x, &weight, 0.0, &mut y, &mut inv_rms)?;
//! assert_eq!(y.as_slice::<f32>()?, [1.0, -2.0, 1.0, 2.0]);
//! # Ok::<(), kiungo::ops::OpError>(())
//! ```

use super::check::{Check, F32, FLOAT};
use super::float::with_float;
use crate::device::{Device, Gpu, Tensor};

/// `y[t, :] = x[t, :] * inv_rms[t] * weight`.
///
/// - `x`, `y`: `[tokens, hidden]`, f32 or bf16, the same type
/// - `weight`: `[hidden]`, f32
/// - `inv_rms`: `[tokens]`, f32, out: `1 / sqrt(mean(x^2) + eps)`, which the backward pass reads
pub fn forward(x: &Tensor, weight: &Tensor, eps: f32, y: &mut Tensor, inv_rms: &mut Tensor) -> super::Result {
    let check = check_forward(x, weight, y, inv_rms)?;
    match check.device() {
        Device::Cpu => with_float!(x.dtype(), T => cpu::forward::<T>(
            x.as_slice()?, weight.as_slice()?, eps, y.as_mut_slice()?, inv_rms.as_mut_slice()?)),
        Device::Cuda(gpu) if !x.is_empty() => gpu.launch(&cuda::forward(gpu, x, None, weight, eps, y, inv_rms)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// `x += residual`, rounded to its type, then [`forward`] of it: one pass over memory, and the same bytes as
/// [`residual::add`](super::residual::add) before.
///
/// - `x`, `residual`: `[tokens, hidden]`, f32 or bf16, the same type
pub fn forward_residual(
    x: &mut Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f32,
    y: &mut Tensor,
    inv_rms: &mut Tensor,
) -> super::Result {
    let check = check_forward(x, weight, y, inv_rms)?;
    check.like("residual", residual, x)?;
    match check.device() {
        Device::Cpu => {
            super::residual::add(x, residual)?;
            forward(x, weight, eps, y, inv_rms)?;
        }
        Device::Cuda(gpu) if !x.is_empty() => {
            gpu.launch(&cuda::forward(gpu, x, Some(residual), weight, eps, y, inv_rms)?)?
        }
        Device::Cuda(_) => {}
    }
    Ok(())
}

fn check_forward(x: &Tensor, weight: &Tensor, y: &Tensor, inv_rms: &Tensor) -> super::Result<Check> {
    let check = Check::new("rmsnorm", x);
    let (tokens, hidden) = check.matrix("x", x)?;
    check.dtype("x", x, FLOAT)?;
    check.tensor("weight", weight, &[hidden], F32)?;
    check.like("y", y, x)?;
    check.tensor("inv_rms", inv_rms, &[tokens], F32)?;
    Ok(check)
}

/// Bytes of a GPU's [workspace](crate::device::Gpu::reserve) that [`backward`] with `dweight` needs at most.
pub fn workspace(gpu: &Gpu, tokens: usize, hidden: usize) -> usize {
    cuda::most_blocks(gpu).min(tokens) * hidden * size_of::<f32>()
}

/// Gradients of [`forward`]: adds to `dx`, and to `dweight` where one is given.
///
/// With `n = x * inv_rms` and `g = dy * weight`: `dx += inv_rms * (g - n * mean(g * n))`,
/// `dweight += sum over tokens of dy * n`.
///
/// - `dy`, `x`, `dx`: `[tokens, hidden]`, f32 or bf16, the same type
/// - `weight`, `dweight`: `[hidden]`, f32
/// - `inv_rms`: `[tokens]`, f32, as [`forward`] left it
///
/// `dx` is added to because the normalised branch rejoins the residual stream, whose gradient is there already.
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    inv_rms: &Tensor,
    dx: &mut Tensor,
    dweight: Option<&mut Tensor>,
) -> super::Result {
    let check = Check::new("rmsnorm backward", x);
    let (tokens, hidden) = check.matrix("x", x)?;
    check.dtype("x", x, FLOAT)?;
    check.like("dy", dy, x)?;
    check.tensor("weight", weight, &[hidden], F32)?;
    check.tensor("inv_rms", inv_rms, &[tokens], F32)?;
    check.like("dx", dx, x)?;
    if let Some(dweight) = &dweight {
        check.tensor("dweight", dweight, &[hidden], F32)?;
    }
    match check.device() {
        Device::Cpu => {
            let dweight = dweight.map(|d| d.as_mut_slice()).transpose()?;
            with_float!(x.dtype(), T => cpu::backward::<T>(
                dy.as_slice()?, x.as_slice()?, weight.as_slice()?, inv_rms.as_slice()?, dx.as_mut_slice()?, dweight));
        }
        Device::Cuda(gpu) if !x.is_empty() => {
            for launch in cuda::backward(gpu, dy, x, weight, inv_rms, dx, dweight.as_deref())? {
                gpu.launch(&launch)?;
            }
        }
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use crate::ops::Float;
    use rayon::prelude::*;

    /// See [`super::forward`].
    pub fn forward<T: Float>(x: &[T], weight: &[f32], eps: f32, y: &mut [T], inv_rms: &mut [f32]) {
        let hidden = weight.len();
        let rows = x.par_chunks(hidden).zip(y.par_chunks_mut(hidden)).zip(inv_rms);
        rows.for_each(|((x, y), inv_rms)| {
            let mean_square = x.iter().map(|v| v.to_f32() * v.to_f32()).sum::<f32>() / hidden as f32;
            *inv_rms = 1.0 / (mean_square + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = T::from_f32(x.to_f32() * *inv_rms * w);
            }
        });
    }

    /// See [`super::backward`].
    pub fn backward<T: Float>(
        dy: &[T],
        x: &[T],
        weight: &[f32],
        inv_rms: &[f32],
        dx: &mut [T],
        dweight: Option<&mut [f32]>,
    ) {
        let hidden = weight.len();
        let rows = dy.par_chunks(hidden).zip(x.par_chunks(hidden)).zip(dx.par_chunks_mut(hidden)).zip(inv_rms);
        rows.for_each(|(((dy, x), dx), &inv_rms)| {
            let normalised = |x: &T| x.to_f32() * inv_rms;
            let dot: f32 = dy.iter().zip(weight).zip(x).map(|((dy, w), x)| dy.to_f32() * w * normalised(x)).sum();
            let mean = dot / hidden as f32;
            for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
                *dx = T::from_f32(dx.to_f32() + inv_rms * (dy.to_f32() * w - normalised(x) * mean));
            }
        });
        // Rows are summed in their order, so that the sum does not depend on the number of threads.
        if let Some(dweight) = dweight {
            for ((dy, x), inv_rms) in dy.chunks(hidden).zip(x.chunks(hidden)).zip(inv_rms) {
                for ((dw, dy), x) in dweight.iter_mut().zip(dy).zip(x) {
                    *dw += dy.to_f32() * x.to_f32() * inv_rms;
                }
            }
        }
    }
}

mod cuda {
    use crate::device::{Gpu, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::threads;
    use crate::ops::params::{RmsnormBackwardParams, RmsnormForwardParams, RmsnormPartialsParams};

    /// Columns that a thread holds in registers.
    const HELD: usize = 16;
    /// Most threads a row.
    const MOST: usize = 512;
    /// Threads that a multiprocessor has registers for.
    const RESIDENT: [u32; 2] = [1024, 512];

    /// Blocks of the backward pass at most: of the fewest threads.
    pub fn most_blocks(gpu: &Gpu) -> usize {
        (gpu.multiprocessors() * (RESIDENT[1] / 32)) as usize
    }

    /// Blocks and threads: as many blocks as run at once, each with many rows.
    fn grid(gpu: &Gpu, x: &Tensor, resident: u32) -> (u32, u32) {
        let threads = threads(x.columns().div_ceil(HELD), MOST);
        ((gpu.multiprocessors() * (resident / threads)).min(x.rows() as u32), threads)
    }

    pub fn forward(
        gpu: &Gpu,
        x: &Tensor,
        residual: Option<&Tensor>,
        weight: &Tensor,
        eps: f32,
        y: &Tensor,
        inv_rms: &Tensor,
    ) -> Result<Launch> {
        let params = RmsnormForwardParams {
            x: x.address()?,
            residual: residual.map_or(Ok(0), |residual| residual.address())?,
            weight: weight.address()?,
            y: y.address()?,
            inv_rms: inv_rms.address()?,
            tokens: x.rows() as u32,
            hidden: x.columns() as u32,
            eps,
            unused: 0,
        };
        let kernel = match residual {
            Some(_) => kernel_for!(x.dtype(), "rmsnorm_forward_residual"),
            None => kernel_for!(x.dtype(), "rmsnorm_forward"),
        };
        let (blocks, threads) = grid(gpu, x, RESIDENT[0]);
        Ok(Launch::new("rmsnorm", kernel, [blocks, 1, 1], threads, params))
    }

    pub fn backward(
        gpu: &Gpu,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        inv_rms: &Tensor,
        dx: &Tensor,
        dweight: Option<&Tensor>,
    ) -> Result<Vec<Launch>> {
        let (blocks, threads) = grid(gpu, x, RESIDENT[1]);
        let hidden = x.columns() as u32;
        let partials = match dweight {
            Some(_) => gpu.workspace(blocks as usize * x.columns() * size_of::<f32>())?,
            None => 0,
        };
        let params = RmsnormBackwardParams {
            dy: dy.address()?,
            x: x.address()?,
            weight: weight.address()?,
            inv_rms: inv_rms.address()?,
            dx: dx.address()?,
            partials,
            tokens: x.rows() as u32,
            hidden,
        };
        let kernel = kernel_for!(x.dtype(), "rmsnorm_backward");
        let mut launches = vec![Launch::new("rmsnorm", kernel, [blocks, 1, 1], threads, params)];
        if let Some(dweight) = dweight {
            let params = RmsnormPartialsParams { partials, dweight: dweight.address()?, rows: blocks, hidden };
            let grid = [hidden.div_ceil(32), 1, 1];
            launches.push(Launch::new("rmsnorm", "rmsnorm_add_partials", grid, 1024, params));
        }
        Ok(launches)
    }
}
