//! Matrix products, in the three layouts that a linear layer and its gradients need.
//!
//! # Cost and error
//!
//! - Cost: `2 * m * n * k` FLOPs; at least `b * (m * k + k * n + m * n)` bytes, once more the last where it adds.
//!   On a GPU bf16 operands whose rows are multiples of 8 run on the tensor cores, all else on the ordinary ones.
//! - Error: 1e-6 where the result is f32; in bf16 at most twice the error of the exact result rounded once.
//!
//! # Example
//!
//! ```
//! use kiungo::device::{Device, Tensor};
//! use kiungo::ops::gemm::{Layout, gemm};
//!
//! let a = Tensor::from_slice(&Device::Cpu, &[1.0f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let b = Tensor::from_slice(&Device::Cpu, &[1.0f32, 0.0, 1.0, 1.0], &[2, 2])?;
//! let mut c = Tensor::from_slice(&Device::Cpu, &[0.0f32; 4], &[2, 2])?;
//! gemm(Layout::Nt, &a, &b, &mut c, false)?;
//! assert_eq!(c.as_slice::<f32>()?, [1.0, 3.0, 3.0, 7.0]);
//! # Ok::<(), kiungo::ops::OpError>(())
//! ```

use super::check::{Check, FLOAT};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// How the operands of `c[m, n]` lie in memory; `k` is summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `a[m, k] b[n, k]`: `c = a b^T`, a linear layer.
    Nt,
    /// `a[m, k] b[k, n]`: `c = a b`, the gradient of its input.
    Nn,
    /// `a[k, m] b[k, n]`: `c = a^T b`, the gradient of its weight.
    Tn,
}

/// `c = a b`, or with `accumulate` `c += a b`; summed in f32, rounded once.
///
/// - `a`, `b`, `c`: f32 or bf16 each, shapes as [`Layout`] says
pub fn gemm(layout: Layout, a: &Tensor, b: &Tensor, c: &mut Tensor, accumulate: bool) -> super::Result {
    let check = Check::new("gemm", a);
    check.matrix("a", a)?;
    check.dtype("a", a, FLOAT)?;
    let (m, k) = if layout == Layout::Tn { (a.columns(), a.rows()) } else { (a.rows(), a.columns()) };
    let (b_rows, b_columns) = check.matrix("b", b)?;
    let n = if layout == Layout::Nt { b_rows } else { b_columns };
    check.tensor("b", b, &if layout == Layout::Nt { [n, k] } else { [k, n] }, FLOAT)?;
    check.tensor("c", c, &[m, n], FLOAT)?;
    match check.device() {
        Device::Cpu => with_float!(a.dtype(), A => with_float!(b.dtype(), B => with_float!(c.dtype(), C => {
            let (a, b) = (a.as_slice::<A>()?, b.as_slice::<B>()?);
            cpu::gemm::<A, B, C>(layout, [m, n, k], a, b, c.as_mut_slice()?, accumulate);
        }))),
        Device::Cuda(gpu) => {
            if m > 0 && n > 0 {
                gpu.launch(&cuda::gemm(gpu.multiprocessors(), layout, [m, n, k], a, b, c, accumulate)?)?
            }
        }
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::Layout;
    use crate::device::cpu::{Store, Threads, View, ViewMut, matmul};
    use crate::ops::Float;
    use crate::ops::float::store;

    /// See [`super::gemm`]; `sizes` are m, n, k. The same bytes for any number of threads.
    pub fn gemm<A: Float, B: Float, C: Float>(
        layout: Layout,
        sizes: [usize; 3],
        a: &[A],
        b: &[B],
        c: &mut [C],
        accumulate: bool,
    ) {
        scaled(1.0, layout, sizes, &A::widen(a), &B::widen(b), c, accumulate);
    }

    /// `c = scale * a b`, or `c += scale * a b`.
    pub(crate) fn scaled<C: Float>(
        scale: f32,
        layout: Layout,
        [m, n, k]: [usize; 3],
        a: &[f32],
        b: &[f32],
        c: &mut [C],
        accumulate: bool,
    ) {
        let a = if layout == Layout::Tn { View::new(a, k, m).transposed() } else { View::new(a, m, k) };
        let b = if layout == Layout::Nt { View::new(b, n, k).transposed() } else { View::new(b, k, n) };
        let product = |to: &mut [f32], how| matmul(scale, a, b, how, ViewMut::new(to, m, n), Threads::Pool);
        match C::as_f32_mut(c) {
            Some(c) => product(c, if accumulate { Store::Add } else { Store::Replace }),
            None => {
                let mut sum = vec![0.0; m * n];
                product(&mut sum, Store::Replace);
                store(&sum, c, accumulate);
            }
        }
    }
}

mod cuda {
    use super::Layout;
    use crate::device::{DType, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::params::{GemmParams, GemmSimtParams};

    /// A tile of `gemm_sm80.cu`.
    struct Tile {
        m: usize,
        n: usize,
        /// The ring of stages in shared memory.
        shared_bytes: u32,
    }

    const LARGE: Tile = Tile { m: 128, n: 128, shared_bytes: 4 * (128 + 128) * 32 * 2 };
    const SMALL: Tile = Tile { m: 32, n: 64, shared_bytes: 4 * (32 + 64) * 64 * 2 };
    const THREADS: u32 = 128;
    /// Rows that a block of SMALL covers; more would be better off in LARGE if there were enough of them.
    const FEW_ROWS: usize = 32;

    /// The launch for a product of at least one element, on a device of so many multiprocessors.
    pub fn gemm(
        multiprocessors: u32,
        layout: Layout,
        sizes: [usize; 3],
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        accumulate: bool,
    ) -> Result<Launch> {
        let bf16 = a.dtype() == DType::Bf16 && b.dtype() == DType::Bf16;
        // cp.async takes 16 bytes at a time, so rows in memory must be multiples of that.
        if bf16 && a.columns().is_multiple_of(8) && b.columns().is_multiple_of(8) {
            tensor_cores(multiprocessors, layout, sizes, a, b, c, accumulate)
        } else {
            simt(layout, sizes, a, b, c, accumulate)
        }
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

    fn simt(
        layout: Layout,
        [m, n, k]: [usize; 3],
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        accumulate: bool,
    ) -> Result<Launch> {
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
}
