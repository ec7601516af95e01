//! Low-rank adaptation of a linear layer (Hu et al. 2021, arXiv 2106.09685): `y += scale * (drop(x) A^T) B^T`.
//!
//! `drop` zeroes elements of `x` at random and scales the others by `1 / (1 - p)`, as PEFT does. Its mask is a
//! function of the element's index ([`Dropout`]), so the backward pass computes it again instead of keeping it.
//!
//! # Cost and error
//!
//! - Cost: forward `2 * tokens * rank * (in + out)` FLOPs, backward twice that, and once more `2 * tokens * rank *
//!   in` for `dx`; activations are read once a product: forward moves `b * tokens * (in + 2 * out)` bytes, and the
//!   factors. On a GPU, [`workspace`] and [`layers_workspace`] say what bf16 needs.
//! - Error: 1e-6, gradients too; in bf16 at most twice the error of the exact result rounded once. A GPU within
//!   8e-6 of the CPU: for bf16 activations a factor goes to the tensor cores as two bf16. But [`linear`](fn@linear) on
//!   Hopper rounds factors and s to bf16 where there are more than 32 ranks, as autocast does: at most twice that error.
//!
//! # Example
//!
//! ```
//! use kiungo::device::{Device, Tensor};
//! use kiungo::ops::lora::{self, Factors};
//!
//! let cpu = |values: &[f32], shape: &[usize]| Tensor::from_slice(&Device::Cpu, values, shape);
//! let (a, b) = (cpu(&[1.0, 2.0], &[1, 2])?, cpu(&[3.0], &[1, 1])?);
//! let factors = Factors::new(&a, &b, 0.5);
//! let (x, mut s, mut y) = (cpu(&[1.0, 1.0], &[1, 2])?, cpu(&[0.0], &[1, 1])?, cpu(&[10.0], &[1, 1])?);
//! lora::forward(&x, &factors, &mut s, &mut y)?;
//! assert_eq!(y.as_slice::<f32>()?, [14.5]);
//! # Ok::<(), kiungo::ops::OpError>(())
//! ```

mod cuda;
mod sm80;
mod sm90;

use super::Result;
use super::check::{Allowed, Check, F32, FLOAT};
use super::float::with_float;
use super::linear::{self, Weight};
use super::params::DropoutParams;
use super::philox::Dropout;
use super::step::State;
use crate::device::{Device, Gpu, Tensor};

/// An adapter: `delta W = scale * B A`.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// `[rank, in]`, f32.
    pub a: &'a Tensor,
    /// `[out, rank]`, f32.
    pub b: &'a Tensor,
    /// `alpha / rank`, or what else the adapter says.
    pub scale: f32,
    /// Dropout on the input, in training.
    pub dropout: Option<Dropout>,
    /// Where the step of the dropout is read from; without it, [`Dropout::step`] counts.
    pub state: Option<&'a State>,
}

impl<'a> Factors<'a> {
    /// An adapter without dropout.
    pub fn new(a: &'a Tensor, b: &'a Tensor, scale: f32) -> Factors<'a> {
        Factors { a, b, scale, dropout: None, state: None }
    }

    /// What kernels are told of the dropout.
    fn dropout_params(&self) -> Result<DropoutParams> {
        let state = self.state.map_or(Ok(0), |state| state.address())?;
        Ok(DropoutParams { state, ..Dropout::params(self.dropout) })
    }

    /// Checks the factors, and returns `[rank, in, out]`.
    fn check(&self, check: &Check) -> Result<[usize; 3]> {
        let (rank, inputs) = check.matrix("a", self.a)?;
        check.dtype("a", self.a, F32)?;
        let (outputs, _) = check.matrix("b", self.b)?;
        check.tensor("b", self.b, &[outputs, rank], F32)?;
        check.value(rank > 0, || "an adapter of rank 0 has no factors".into())?;
        if let Some(Dropout { probability, .. }) = self.dropout {
            let ok = (0.0..1.0).contains(&probability);
            check.value(ok, || format!("dropout is {probability}, expected a share below 1"))?;
        }
        if let Some(state) = self.state {
            state.check(check)?;
        }
        Ok([rank, inputs, outputs])
    }
}

/// A layer and its adapter, if it has one.
pub struct Layer<'a> {
    /// `[out, in]`.
    pub weight: &'a Weight,
    /// The factors, and `s`, `[tokens, rank]`, f32, out: `drop(x) A^T`, which [`backward`] reads.
    pub adapter: Option<(Factors<'a>, &'a mut Tensor)>,
    /// `[tokens, out]`, of x's type, overwritten.
    pub y: &'a mut Tensor,
}

impl Layer<'_> {
    /// Of the adapter; 0 without.
    fn rank(&self) -> usize {
        self.adapter.as_ref().map_or(0, |(factors, _)| factors.a.rows())
    }
}

/// An adapter in a backward pass; fields as [`backward`]'s arguments.
pub struct Branch<'a> {
    /// `[tokens, out]`.
    pub dy: &'a Tensor,
    /// `[tokens, rank]`, f32, as forward left it.
    pub s: &'a Tensor,
    /// The factors.
    pub factors: Factors<'a>,
    /// `[tokens, rank]`, f32, scratch.
    pub ds: &'a mut Tensor,
    /// `[rank, in]`, f32, added to.
    pub da: &'a mut Tensor,
    /// `[out, rank]`, f32, added to.
    pub db: &'a mut Tensor,
}

/// Bytes of a GPU's [workspace](Gpu::reserve) that [`forward`], [`backward`] and [`backward_all`] need at most for so many
/// adapters of bf16 activations; f32 needs none.
pub fn workspace(gpu: &Gpu, tokens: usize, rank: usize, adapters: usize) -> usize {
    sm80::workspace(gpu, tokens, rank, adapters)
}

/// Bytes of a GPU's [workspace](Gpu::reserve) that [`layers`] and [`backward_all`] need at most, for layers of these weights and
/// bf16 activations.
pub fn layers_workspace(gpu: &Gpu, tokens: usize, weights: &[&Weight], rank: usize) -> usize {
    sm80::layers_workspace(gpu, tokens, weights, rank)
}

/// Adds the adapter's output to `y`.
///
/// - `x`: `[tokens, in]`, f32 or bf16
/// - `s`: `[tokens, rank]`, f32, out: `drop(x) A^T`, which [`backward`] reads
/// - `y`: `[tokens, out]`, of `x`'s type, added to and rounded once
pub fn forward(x: &Tensor, factors: &Factors, s: &mut Tensor, y: &mut Tensor) -> Result {
    let check = Check::new("lora", x);
    let [rank, inputs, outputs] = factors.check(&check)?;
    let tokens = x.rows();
    check.tensor("x", x, &[tokens, inputs], FLOAT)?;
    check.tensor("s", s, &[tokens, rank], F32)?;
    check.tensor("y", y, &[tokens, outputs], Allowed::Only(x.dtype()))?;
    match check.device() {
        Device::Cpu => with_float!(x.dtype(), T => cpu::forward::<T>(
            cpu::Factors::new(factors)?, x.as_slice()?, s.as_mut_slice()?, y.as_mut_slice()?)),
        Device::Cuda(gpu) if tokens > 0 => cuda::forward(gpu, x, factors, s, y)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// A linear layer with its adapter: `y = x W^T + scale * (drop(x) A^T) B^T`.
///
/// - `x`: `[tokens, in]`, f32 or bf16
/// - `weight`: `[out, in]`
/// - `s`: `[tokens, rank]`, f32, out, as [`forward`] leaves it
/// - `y`: `[tokens, out]`, of `x`'s type, overwritten
///
/// On a Hopper GPU one product makes y of many tokens, `[x | scale s] [W | B]^T`, rounded once; elsewhere [`linear::forward`] and
/// then [`forward`]. It needs [`layers_workspace`] bytes of the workspace.
pub fn linear(x: &Tensor, weight: &Weight, factors: &Factors, s: &mut Tensor, y: &mut Tensor) -> Result {
    layers(x, &mut [Layer { weight, adapter: Some((*factors, s)), y }])
}

/// [`linear`](fn@linear) of layers that read the same x, with and without adapters. On a GPU their adapters share launches.
pub fn layers(x: &Tensor, layers: &mut [Layer]) -> Result {
    let check = Check::new("lora", x);
    let tokens = x.rows();
    for Layer { weight, adapter, y } in layers.iter() {
        let (outputs, inputs) = weight.check(&check)?;
        check.tensor("x", x, &[tokens, inputs], FLOAT)?;
        check.tensor("y", y, &[tokens, outputs], Allowed::Only(x.dtype()))?;
        let Some((factors, s)) = adapter else { continue };
        let [rank, of_a, of_b] = factors.check(&check)?;
        check.value((outputs, inputs) == (of_b, of_a), || {
            format!("the weight is {:?}, and the adapter is for {of_b} x {of_a}", (outputs, inputs))
        })?;
        check.tensor("s", s, &[tokens, rank], F32)?;
    }
    if let Device::Cuda(gpu) = check.device()
        && tokens > 0
        && layers.iter().all(|layer| sm80::fits(x, [x.columns(), layer.y.columns()]))
    {
        return sm80::layers(gpu, x, layers);
    }
    for Layer { weight, adapter, y } in layers {
        linear::forward(x, weight, y)?;
        if let Some((factors, s)) = adapter {
            forward(x, factors, s, y)?;
        }
    }
    Ok(())
}

/// Gradients of [`forward`], all added: with `ds = scale * dy B`, `dA += ds^T drop(x)`, `dB += scale * dy^T s`, and
/// where it is wanted `dx += drop'(ds A)`.
///
/// - `dy`: `[tokens, out]`, `x`, `dx`: `[tokens, in]`, f32 or bf16, the same type
/// - `s`: `[tokens, rank]`, f32, as [`forward`] left it
/// - `ds`: `[tokens, rank]`, f32, scratch
/// - `da`: `[rank, in]`, `db`: `[out, rank]`, f32
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    s: &Tensor,
    factors: &Factors,
    ds: &mut Tensor,
    da: &mut Tensor,
    db: &mut Tensor,
    dx: Option<&mut Tensor>,
) -> Result {
    backward_all(x, &mut [Branch { dy, s, factors: *factors, ds, da, db }], dx)
}

/// [`backward`] of adapters that read the same x. On a GPU they share launches.
pub fn backward_all(x: &Tensor, branches: &mut [Branch], mut dx: Option<&mut Tensor>) -> Result {
    let check = Check::new("lora backward", x);
    let tokens = x.rows();
    for Branch { dy, s, factors, ds, da, db } in branches.iter() {
        let [rank, inputs, outputs] = factors.check(&check)?;
        check.tensor("x", x, &[tokens, inputs], FLOAT)?;
        check.tensor("dy", dy, &[tokens, outputs], Allowed::Only(x.dtype()))?;
        check.tensor("s", s, &[tokens, rank], F32)?;
        check.tensor("ds", ds, &[tokens, rank], F32)?;
        check.like("da", da, factors.a)?;
        check.like("db", db, factors.b)?;
    }
    if let Some(dx) = &dx {
        check.like("dx", dx, x)?;
    }
    match check.device() {
        Device::Cpu => {
            for Branch { dy, s, factors, ds, da, db } in branches {
                with_float!(x.dtype(), T => cpu::backward::<T>(
                    cpu::Factors::new(factors)?, dy.as_slice()?, x.as_slice()?, s.as_slice()?, ds.as_mut_slice()?,
                    da.as_mut_slice()?, db.as_mut_slice()?, dx.as_mut().map(|dx| dx.as_mut_slice()).transpose()?));
            }
        }
        Device::Cuda(gpu) if tokens > 0 => cuda::backward(gpu, x, branches, dx.as_deref())?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use crate::ops::Float;
    use crate::ops::gemm::Layout::{Nn, Nt, Tn};
    use crate::ops::gemm::cpu::scaled;
    use crate::ops::philox::Dropout;
    use rayon::prelude::*;
    use std::borrow::Cow;

    /// An adapter's factors as slices.
    #[derive(Clone, Copy)]
    pub struct Factors<'a> {
        a: &'a [f32],
        b: &'a [f32],
        rank: usize,
        scale: f32,
        dropout: Option<Dropout>,
    }

    impl<'a> Factors<'a> {
        pub(super) fn new(factors: &super::Factors<'a>) -> crate::ops::Result<Factors<'a>> {
            let super::Factors { a, b, scale, dropout, state } = *factors;
            let mut dropout = dropout.filter(|d| d.probability > 0.0);
            if let (Some(dropout), Some(state)) = (&mut dropout, state) {
                dropout.step = state.read()?.step;
            }
            Ok(Factors { a: a.as_slice()?, b: b.as_slice()?, rank: a.rows(), scale, dropout })
        }

        fn sizes(&self) -> [usize; 3] {
            [self.rank, self.a.len() / self.rank, self.b.len() / self.rank]
        }

        /// `drop(x)`, row by row of `columns`.
        fn dropped<'x>(&self, x: Cow<'x, [f32]>, columns: usize) -> Cow<'x, [f32]> {
            let Some(dropout) = self.dropout else { return x };
            let mut kept = vec![0.0; x.len()];
            let rows = x.par_chunks(columns).zip(kept.par_chunks_mut(columns)).enumerate();
            rows.for_each(|(row, (x, kept))| dropout.apply((row * columns) as u64, x, kept));
            Cow::Owned(kept)
        }
    }

    /// See [`super::forward`].
    pub fn forward<T: Float>(factors: Factors, x: &[T], s: &mut [f32], y: &mut [T]) {
        let [rank, inputs, outputs] = factors.sizes();
        let tokens = x.len() / inputs;
        let x = factors.dropped(T::widen(x), inputs);
        scaled(1.0, Nt, [tokens, rank, inputs], &x, factors.a, s, false);
        scaled(factors.scale, Nt, [tokens, outputs, rank], s, factors.b, y, true);
    }

    /// See [`super::backward`].
    #[allow(clippy::too_many_arguments)]
    pub fn backward<T: Float>(
        factors: Factors,
        dy: &[T],
        x: &[T],
        s: &[f32],
        ds: &mut [f32],
        da: &mut [f32],
        db: &mut [f32],
        dx: Option<&mut [T]>,
    ) {
        let [rank, inputs, outputs] = factors.sizes();
        let tokens = x.len() / inputs;
        let dy = T::widen(dy);
        scaled(factors.scale, Nn, [tokens, rank, outputs], &dy, factors.b, ds, false);
        scaled(factors.scale, Tn, [outputs, rank, tokens], &dy, s, db, true);
        let x = factors.dropped(T::widen(x), inputs);
        scaled(1.0, Tn, [rank, inputs, tokens], ds, &x, da, true);
        let Some(dx) = dx else { return };
        if factors.dropout.is_none() {
            return scaled(1.0, Nn, [tokens, inputs, rank], ds, factors.a, dx, true);
        }
        let mut through = vec![0.0; tokens * inputs];
        scaled(1.0, Nn, [tokens, inputs, rank], ds, factors.a, &mut through, false);
        let kept = factors.dropped(Cow::Owned(through), inputs);
        crate::ops::float::store(&kept, dx, true);
    }
}
