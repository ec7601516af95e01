//! The norm of a gradient over many tensors (Pascanu et al. 2013, arXiv 1211.5063): sums of squares here, their root and
//! the factor of clipping in [`super::step::judge`].
//!
//! # Cost and error
//!
//! - Cost: 4 bytes an element and 2 FLOPs; the scaling itself is part of AdamW's pass.
//! - Error: 1e-6, on both devices; sums are f64.

use super::check::{Check, F32};
use super::params::KIUNGO_SQUARES_CHUNK;
use crate::device::{Device, Tensor};

/// Elements behind one sum of squares.
const CHUNK: usize = KIUNGO_SQUARES_CHUNK as usize;

/// How many sums [`squares`] writes for a gradient of `len` elements.
pub fn sums(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// The sums of squares of a gradient's chunks, into `squares[first..first + sums(gradient.len())]`.
///
/// - `gradient`: f32, any shape
/// - `squares`: `[n]`, f32; the rest of it stays as it is
///
/// Summed in f64 over chunks of a fixed size, so that the result does not depend on the number of threads.
pub fn squares(gradient: &Tensor, squares: &mut Tensor, first: usize) -> super::Result {
    let check = Check::new("clip", gradient);
    check.dtype("gradient", gradient, F32)?;
    check.tensor("squares", squares, &[squares.len()], F32)?;
    let end = first + sums(gradient.len());
    check.value(end <= squares.len(), || format!("{end} sums of squares, and room for {}", squares.len()))?;
    match check.device() {
        Device::Cpu => cpu::squares(gradient.as_slice()?, &mut squares.as_mut_slice()?[first..end]),
        Device::Cuda(gpu) if !gradient.is_empty() => gpu.launch(&cuda::squares(gradient, squares, first)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::CHUNK;
    use rayon::prelude::*;

    /// See [`super::squares`].
    pub fn squares(x: &[f32], squares: &mut [f32]) {
        squares.par_iter_mut().zip(x.par_chunks(CHUNK)).for_each(|(square, chunk)| {
            *square = chunk.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() as f32;
        });
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::params::SquaresParams;

    const THREADS: u32 = 256;

    pub fn squares(gradient: &Tensor, squares: &Tensor, first: usize) -> Result<Launch> {
        let params = SquaresParams {
            gradient: gradient.address()?,
            squares: squares.address()? + (first * size_of::<f32>()) as u64,
            count: gradient.len() as u64,
        };
        let blocks = super::sums(gradient.len()) as u32;
        Ok(Launch::new("clip", "clip_squares", [blocks, 1, 1], THREADS, params))
    }
}
