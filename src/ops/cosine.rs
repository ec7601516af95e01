//! Rows scaled to length 1, whose dot products are cosines.
//!
//! # Cost and error
//!
//! - Cost: forward reads and writes `n * hidden` values (8 bytes each, 3 FLOPs); backward reads two and writes one
//!   (12 bytes, 5 FLOPs).
//! - Error: 1e-6, gradients 1e-5; the length is summed in f64. A GPU within 1e-6 of the CPU.

use super::check::{Check, F32};
use crate::device::{Device, Tensor};

/// Below this length a row is divided by this instead, so that a zero row stays zero.
pub const MIN_NORM: f32 = 1e-12;

/// `norm[i] = |x[i, :]|`, `y[i, :] = x[i, :] / max(norm[i], MIN_NORM)`.
///
/// - `x`, `y`: `[n, hidden]`, f32
/// - `norm`: `[n]`, f32, out, which the backward pass reads
pub fn normalize(x: &Tensor, y: &mut Tensor, norm: &mut Tensor) -> super::Result {
    let check = Check::new("cosine", x);
    let (n, hidden) = check.matrix("x", x)?;
    check.dtype("x", x, F32)?;
    check.like("y", y, x)?;
    check.tensor("norm", norm, &[n], F32)?;
    match check.device() {
        Device::Cpu => cpu::normalize(hidden, x.as_slice()?, y.as_mut_slice()?, norm.as_mut_slice()?),
        Device::Cuda(gpu) if n > 0 => gpu.launch(&cuda::normalize(x, y, norm)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Gradient of [`normalize`]: `dx[i, :] = (dy - y (y . dy)) / norm`; for a row shorter than [`MIN_NORM`],
/// `dy / MIN_NORM`.
///
/// - `dy`, `y`, `dx`: `[n, hidden]`, f32; `dx` is overwritten
/// - `norm`: `[n]`, f32, as [`normalize`] left it
pub fn normalize_backward(dy: &Tensor, y: &Tensor, norm: &Tensor, dx: &mut Tensor) -> super::Result {
    let check = Check::new("cosine backward", y);
    let (n, hidden) = check.matrix("y", y)?;
    check.dtype("y", y, F32)?;
    check.like("dy", dy, y)?;
    check.tensor("norm", norm, &[n], F32)?;
    check.like("dx", dx, y)?;
    match check.device() {
        Device::Cpu => {
            cpu::normalize_backward(hidden, dy.as_slice()?, y.as_slice()?, norm.as_slice()?, dx.as_mut_slice()?)
        }
        Device::Cuda(gpu) if n > 0 => gpu.launch(&cuda::normalize_backward(dy, y, norm, dx)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::MIN_NORM;
    use rayon::prelude::*;

    /// See [`super::normalize`].
    pub fn normalize(hidden: usize, x: &[f32], y: &mut [f32], norm: &mut [f32]) {
        x.par_chunks(hidden).zip(y.par_chunks_mut(hidden)).zip(norm).for_each(|((x, y), norm)| {
            *norm = dot(x, x).sqrt() as f32;
            let length = norm.max(MIN_NORM);
            for (y, x) in y.iter_mut().zip(x) {
                *y = x / length;
            }
        });
    }

    /// See [`super::normalize_backward`].
    pub fn normalize_backward(hidden: usize, dy: &[f32], y: &[f32], norm: &[f32], dx: &mut [f32]) {
        let rows = dy.par_chunks(hidden).zip(y.par_chunks(hidden)).zip(dx.par_chunks_mut(hidden)).zip(norm);
        rows.for_each(|(((dy, y), dx), &norm)| {
            let along = if norm < MIN_NORM { 0.0 } else { dot(y, dy) as f32 };
            let length = norm.max(MIN_NORM);
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                *dx = (dy - y * along) / length;
            }
        });
    }

    /// In float64, where the sum of thousands of squares loses nothing.
    pub(in crate::ops) fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
    }
}

mod cuda {
    use super::MIN_NORM;
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::launch::threads;
    use crate::ops::params::CosineParams;

    pub fn normalize(x: &Tensor, y: &Tensor, norm: &Tensor) -> Result<Launch> {
        Ok(launch("cosine_normalize", x, params(x, y, norm)?))
    }

    pub fn normalize_backward(dy: &Tensor, y: &Tensor, norm: &Tensor, dx: &Tensor) -> Result<Launch> {
        Ok(launch("cosine_normalize_backward", y, CosineParams { dx: dx.address()?, ..params(dy, y, norm)? }))
    }

    fn launch(kernel: &'static str, x: &Tensor, params: CosineParams) -> Launch {
        const HELD: usize = 16; // columns a thread
        const MOST: usize = 1024;
        Launch::new("cosine", kernel, [x.rows() as u32, 1, 1], threads(x.columns().div_ceil(HELD), MOST), params)
    }

    fn params(x: &Tensor, y: &Tensor, norm: &Tensor) -> Result<CosineParams> {
        Ok(CosineParams {
            x: x.address()?,
            y: y.address()?,
            norm: norm.address()?,
            dx: 0,
            hidden: x.columns() as u32,
            min_norm: MIN_NORM,
        })
    }
}
