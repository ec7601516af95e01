//! Which kernel takes a product, and its launch.

use super::{Layout, sm90};
use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::params::{GemmParams, GemmSimtParams};

/// The card that `gemm_sm90.cu` is for; its instructions are that card's alone.
pub use crate::device::cuda::HOPPER;

/// A tile of `gemm_sm80.cu`.
struct Tile {
    m: usize,
    n: usize,
    /// The ring of stages in shared memory.
    shared_bytes: u32,
}

const LARGE: Tile = Tile { m: 128, n: 128, shared_bytes: 3 * (128 + 128) * 64 * 2 };
const SMALL: Tile = Tile { m: 32, n: 64, shared_bytes: 4 * (32 + 64) * 64 * 2 };
const THREADS: u32 = 128;
/// Rows that a block of SMALL covers; more would be better off in LARGE if there were enough of them.
const FEW_ROWS: usize = 32;

/// The launch for a product of at least one element.
pub fn gemm(
    gpu: &Gpu,
    layout: Layout,
    sizes: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    accumulate: bool,
) -> Result<Launch> {
    let bf16 = a.dtype() == DType::Bf16 && b.dtype() == DType::Bf16;
    // cp.async takes 16 bytes at a time and the copy engine rows of multiples of them, so rows in memory must be that.
    let aligned = a.columns().is_multiple_of(8) && b.columns().is_multiple_of(8);
    match (bf16 && aligned, gpu.capability()) {
        (true, HOPPER) if sizes[2] > 0 => {
            sm90::gemm(gpu.multiprocessors() as usize, layout, sizes, a, b, c, accumulate)
        }
        (true, _) => tensor_cores(gpu.multiprocessors(), layout, sizes, a, b, c, accumulate),
        (false, _) => simt(layout, sizes, a, b, c, accumulate),
    }
}

/// The launch of `c = a_0 b_0 + a_1 b_1`, [`Layout::Nn`], or None where no kernel takes both.
pub fn two(gpu: &Gpu, a: [&Tensor; 2], b: [&Tensor; 2], c: &Tensor) -> Result<Option<Launch>> {
    let fits = |t: &&Tensor| t.dtype() == DType::Bf16 && t.columns().is_multiple_of(8) && t.rows() > 0;
    if gpu.capability() != HOPPER || !a.iter().chain(&b).chain([&c]).all(fits) {
        return Ok(None);
    }
    let sizes = [c.rows(), c.columns(), a[0].columns()];
    let more = sm90::More { a: a[1].address()?, b: b[1].address()?, k: a[1].columns() };
    sm90::gemm_and_more(gpu.multiprocessors() as usize, Layout::Nn, sizes, a[0], b[0], c, &more)
}

fn tensor_cores(
    multiprocessors: u32,
    layout: Layout,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    accumulate: bool,
) -> Result<Launch> {
    let tiles = |tile: &Tile| m.div_ceil(tile.m) * n.div_ceil(tile.n);
    let small = m <= FEW_ROWS || tiles(&LARGE) < multiprocessors as usize;
    let tile = if small { SMALL } else { LARGE };
    let params = GemmParams {
        a: a.address()?,
        b: b.address()?,
        c: c.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        accumulate: accumulate.into(),
    };
    let kernel = kernel(layout, c.dtype(), small);
    Ok(Launch::new("gemm_sm80", kernel, [tiles(&tile) as u32, 1, 1], THREADS, params).shared(tile.shared_bytes))
}

fn kernel(layout: Layout, c: DType, small: bool) -> &'static str {
    match (layout, c, small) {
        (Layout::Nt, DType::Bf16, false) => "gemm_nt_bf16_large",
        (Layout::Nt, DType::Bf16, true) => "gemm_nt_bf16_small",
        (Layout::Nt, _, false) => "gemm_nt_f32_large",
        (Layout::Nt, _, true) => "gemm_nt_f32_small",
        (Layout::Nn, DType::Bf16, false) => "gemm_nn_bf16_large",
        (Layout::Nn, DType::Bf16, true) => "gemm_nn_bf16_small",
        (Layout::Nn, _, false) => "gemm_nn_f32_large",
        (Layout::Nn, _, true) => "gemm_nn_f32_small",
        (Layout::Tn, DType::Bf16, false) => "gemm_tn_bf16_large",
        (Layout::Tn, DType::Bf16, true) => "gemm_tn_bf16_small",
        (Layout::Tn, _, false) => "gemm_tn_f32_large",
        (Layout::Tn, _, true) => "gemm_tn_f32_small",
    }
}

fn simt(layout: Layout, [m, n, k]: [usize; 3], a: &Tensor, b: &Tensor, c: &Tensor, accumulate: bool) -> Result<Launch> {
    const TILE: usize = 64;
    const THREADS: u32 = 256;
    let (a_stride_row, a_stride_k) = if layout == Layout::Tn { (1, m) } else { (k, 1) };
    let (b_stride_row, b_stride_k) = if layout == Layout::Nt { (k, 1) } else { (1, n) };
    let params = GemmSimtParams {
        a: a.address()?,
        b: b.address()?,
        c: c.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        accumulate: accumulate.into(),
        a_stride_row: a_stride_row as u32,
        a_stride_k: a_stride_k as u32,
        b_stride_row: b_stride_row as u32,
        b_stride_k: b_stride_k as u32,
    };
    let kernel = match (a.dtype(), b.dtype(), c.dtype()) {
        (DType::Bf16, DType::Bf16, DType::Bf16) => "gemm_simt_bf16_bf16_bf16",
        (DType::Bf16, DType::Bf16, _) => "gemm_simt_bf16_bf16_f32",
        (DType::Bf16, _, DType::Bf16) => "gemm_simt_bf16_f32_bf16",
        (DType::Bf16, _, _) => "gemm_simt_bf16_f32_f32",
        (_, DType::Bf16, DType::Bf16) => "gemm_simt_f32_bf16_bf16",
        (_, DType::Bf16, _) => "gemm_simt_f32_bf16_f32",
        (_, _, DType::Bf16) => "gemm_simt_f32_f32_bf16",
        _ => "gemm_simt_f32_f32_f32",
    };
    let grid = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
    Ok(Launch::new("gemm_simt", kernel, grid, THREADS, params))
}
