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

pub(super) mod cuda;
pub(super) mod sm90;
pub mod tiles;

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
    let [m, n, k] = check_sizes(&check, layout, a, b, c)?;
    match check.device() {
        Device::Cpu => with_float!(a.dtype(), A => with_float!(b.dtype(), B => with_float!(c.dtype(), C => {
            let (a, b) = (a.as_slice::<A>()?, b.as_slice::<B>()?);
            cpu::gemm::<A, B, C>(layout, [m, n, k], a, b, c.as_mut_slice()?, accumulate);
        }))),
        Device::Cuda(gpu) => {
            if m > 0 && n > 0 {
                gpu.launch(&cuda::gemm(gpu, layout, [m, n, k], a, b, c, accumulate)?)?
            }
        }
    }
    Ok(())
}

/// [`gemm`] on a Hopper GPU with a tile of the caller's choosing, for tests and benchmarks: `tile` is a name of
/// `gemm/tiles.rs`, `splits` the parts of k.
///
/// An error where the tensors, the tile or the card do not fit.
#[doc(hidden)]
pub fn gemm_with_tile(
    layout: Layout,
    a: &Tensor,
    b: &Tensor,
    c: &mut Tensor,
    accumulate: bool,
    (tile, splits): (&str, usize),
) -> super::Result {
    let check = Check::new("gemm", a);
    let sizes = check_sizes(&check, layout, a, b, c)?;
    let found = tiles::TILES.iter().find(|t| t.name == tile && t.splits(sizes[2]).contains(&splits));
    let (Device::Cuda(gpu), Some(tile)) = (check.device(), found) else {
        return Err(super::OpError::Value { op: "gemm", message: format!("no tile {tile} in {splits} parts of k") });
    };
    let multiprocessors = gpu.multiprocessors() as usize;
    Ok(gpu.launch(&sm90::launch(multiprocessors, layout, sizes, (tile, splits), a, b, c, accumulate)?)?)
}

/// m, n and k of tensors that fit each other.
fn check_sizes(check: &Check, layout: Layout, a: &Tensor, b: &Tensor, c: &Tensor) -> super::Result<[usize; 3]> {
    check.matrix("a", a)?;
    check.dtype("a", a, FLOAT)?;
    let (m, k) = if layout == Layout::Tn { (a.columns(), a.rows()) } else { (a.rows(), a.columns()) };
    let (b_rows, b_columns) = check.matrix("b", b)?;
    let n = if layout == Layout::Nt { b_rows } else { b_columns };
    check.tensor("b", b, &if layout == Layout::Nt { [n, k] } else { [k, n] }, FLOAT)?;
    check.tensor("c", c, &[m, n], FLOAT)?;
    Ok([m, n, k])
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
