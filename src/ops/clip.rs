//! The norm of a gradient over many tensors (Pascanu et al. 2013, arXiv 1211.5063): sums of squares here, their root and
//! the factor of clipping in [`super::step::judge`].
//!
//! # Cost and error
//!
//! - Cost: `b` bytes an element and 2 FLOPs; the scaling itself is part of AdamW's pass.
//! - Error: 1e-6, on both devices; sums are f64.

use super::check::{Check, F32, FLOAT};
use super::float::with_float;
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
/// - `gradient`: f32 or bf16, any shape
/// - `squares`: `[n]`, f32; the rest of it stays as it is
///
/// Summed in f64 over chunks of a fixed size, so that the result does not depend on the number of threads.
pub fn squares(gradient: &Tensor, squares: &mut Tensor, first: usize) -> super::Result {
    run(gradient, squares, first, false)
}

/// The same, added to what stands in `squares` of other gradients.
pub fn add_squares(gradient: &Tensor, squares: &mut Tensor, first: usize) -> super::Result {
    run(gradient, squares, first, true)
}

fn run(gradient: &Tensor, squares: &mut Tensor, first: usize, accumulate: bool) -> super::Result {
    let check = Check::new("clip", gradient);
    check.dtype("gradient", gradient, FLOAT)?;
    check.tensor("squares", squares, &[squares.len()], F32)?;
    let end = first + sums(gradient.len());
    check.value(end <= squares.len(), || format!("{end} sums of squares, and room for {}", squares.len()))?;
    match check.device() {
        Device::Cpu => with_float!(gradient.dtype(), T => {
            cpu::squares::<T>(gradient.as_slice()?, &mut squares.as_mut_slice()?[first..end], accumulate)
        }),
        Device::Cuda(gpu) if !gradient.is_empty() => {
            gpu.launch(&cuda::squares(gradient, squares, first, accumulate)?)?
        }
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::CHUNK;
    use crate::ops::Float;
    use rayon::prelude::*;

    /// See [`super::squares`].
    pub fn squares<T: Float>(x: &[T], squares: &mut [f32], accumulate: bool) {
        squares.par_iter_mut().zip(x.par_chunks(CHUNK)).for_each(|(square, chunk)| {
            let before = if accumulate { *square } else { 0.0 };
            *square = before + chunk.iter().map(|v| f64::from(v.to_f32()).powi(2)).sum::<f64>() as f32;
        });
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::params::SquaresParams;

    const THREADS: u32 = 256;

    pub fn squares(gradient: &Tensor, squares: &Tensor, first: usize, accumulate: bool) -> Result<Launch> {
        let params = SquaresParams {
            gradient: gradient.address()?,
            squares: squares.address()? + (first * size_of::<f32>()) as u64,
            count: gradient.len() as u64,
            accumulate: accumulate.into(),
        };
        let blocks = super::sums(gradient.len()) as u32;
        Ok(Launch::new("clip", kernel_for!(gradient.dtype(), "clip_squares"), [blocks, 1, 1], THREADS, params))
    }
}
