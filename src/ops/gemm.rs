//! Matrix products, in the three layouts that a linear layer and its gradients need.

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
        Device::Cuda(_) => check.no_kernel("any type")?,
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
