//! The launches of `adamw_linear.cu`.

use super::super::cuda::update_params;
use super::{Moments, Precision, Rounding, Source};
use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::params::{
    AdamwLinearParams, AdamwParams, KIUNGO_ADAMW_BLOCK, KIUNGO_ADAMW_LINEAR_ROWS, KIUNGO_ADAMW_LINEAR_TOKEN,
    KIUNGO_ADAMW_LINEAR_WARPS,
};

const THREADS: u32 = 32 * KIUNGO_ADAMW_LINEAR_WARPS;
/// More are multiplied faster by a GEMM, though its result is written and read.
const MOST_TOKENS: usize = 128;
/// Shared memory that `adamw_linear.cu` declares beside what a launch adds, at most.
const DECLARED: usize = 3 << 10;

fn shared_bytes(tokens: usize) -> usize {
    tokens.next_multiple_of(32) * KIUNGO_ADAMW_LINEAR_TOKEN as usize
}

/// Whether there is a kernel for a weight `[out, in]`: columns of whole blocks of moments, and few tokens: 128, or 96 on
/// cards with 99 KB of shared memory a block. There it is the faster way whatever the shape, for it moves fewer bytes.
pub fn fits(gpu: &Gpu, tokens: usize, [outputs, inputs]: [usize; 2]) -> bool {
    let [rows, block] = [KIUNGO_ADAMW_LINEAR_ROWS, KIUNGO_ADAMW_BLOCK].map(|n| n as usize);
    let indices = outputs / rows * (inputs / block) <= u32::MAX as usize;
    let shape = outputs > 0 && outputs.is_multiple_of(rows) && inputs > 0 && inputs.is_multiple_of(block) && indices;
    shape && (1..=MOST_TOKENS).contains(&tokens) && shared_bytes(tokens) + DECLARED <= gpu.shared_memory()
}

/// The same for these tensors.
pub fn fits_all(gpu: &Gpu, x: &Tensor, w: &Tensor, moments: &Moments) -> bool {
    let types = x.dtype() == DType::Bf16 && moments.precision() == Precision::Blocks8;
    types && fits(gpu, x.rows(), [w.rows(), w.columns()])
}

#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn update(
    gpu: &Gpu,
    source: Source,
    rounding: Rounding,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    moments: &Moments,
    copy: Option<&Tensor>,
    squares: &Tensor,
) -> Result<Launch> {
    let adamw = update_params(source, rounding, w, None, moments, copy, Some(squares))?;
    let kernel = if w.dtype() == DType::Bf16 { "adamw_linear_bf16" } else { "adamw_linear_f32" };
    launch(gpu, kernel, adamw, dy, x, squares.len())
}

pub fn measure(gpu: &Gpu, dy: &Tensor, x: &Tensor, w: &Tensor, squares: &Tensor) -> Result<Launch> {
    let adamw = AdamwParams { count: w.len() as u64, squares: squares.address()?, ..AdamwParams::default() };
    launch(gpu, "adamw_linear_squares", adamw, dy, x, squares.len())
}

/// A block a multiprocessor, each with a place of its own among the sums of squares.
fn launch(
    gpu: &Gpu,
    kernel: &'static str,
    adamw: AdamwParams,
    dy: &Tensor,
    x: &Tensor,
    squares: usize,
) -> Result<Launch> {
    let (tokens, outputs, inputs) = (x.rows(), dy.columns(), x.columns());
    let tiles = outputs / KIUNGO_ADAMW_LINEAR_ROWS as usize * (inputs / KIUNGO_ADAMW_BLOCK as usize);
    let params = AdamwLinearParams {
        adamw,
        dy: dy.address()?,
        x: x.address()?,
        tokens: tokens as u32,
        outputs: outputs as u32,
        inputs: inputs as u32,
        unused: 0,
    };
    let grid = (gpu.multiprocessors() as usize).min(tiles).min(squares) as u32;
    Ok(Launch::new("adamw_linear", kernel, [grid, 1, 1], THREADS, params).shared(shared_bytes(tokens) as u32))
}
