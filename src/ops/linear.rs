//! The linear layer without bias, `y = x W^T`, over a weight in any of its forms.
//!
//! Over NF4 a GPU dequantises the weight into the [workspace](crate::device::Gpu::reserve): `2 * out * in` bytes. For few
//! bf16 tokens (128 on Hopper; on other cards with room in shared memory 32 forward, 64 backward) it does not: codes become fragments of the tensor cores in registers. There a
//! level is rounded to bf16 in place of `level * absmax`: forward, a block's absmax multiplies the f32 sums over its 64 inputs;
//! backward it multiplies what is rounded to bf16 once more, dy or the level. The f32 sums of parts of the outputs lie in the
//! workspace, which need be no larger for them. Nor does Hopper dequantise for many tokens, up to some 1500, where its model says
//! that it is quicker: forward, the values are the same; backward, the level is rounded as for few.
//!
//! # Cost and error
//!
//! - Cost: that of a product of `tokens`, `out` and `in` ([`gemm()`]): `2 * tokens * out * in` FLOPs
//!   forward and for each gradient. Over NF4 a GPU reads about `0.53 * out * in` bytes, and where it dequantises
//!   writes and reads `2 * out * in`.
//! - Error: that of [`gemm()`], against float64 with the weight that is computed with, dequantised where
//!   it is NF4. For few tokens over NF4, and for the gradient of x of many: against float64 with `level * absmax`, twice that of the product with the weight
//!   rounded to bf16.
//!
//! # Example
//!
//! ```
//! use kiungo::device::{Device, Tensor};
//! use kiungo::ops::linear::{self, Weight};
//! use kiungo::ops::nf4::Nf4Tensor;
//!
//! let dense = Tensor::from_slice(&Device::Cpu, &[0.5f32; 2 * 64], &[2, 64])?;
//! let weight = Weight::Nf4(Nf4Tensor::quantize(&dense, false)?);
//! let x = Tensor::from_slice(&Device::Cpu, &[1.0f32; 64], &[1, 64])?;
//! let mut y = Tensor::from_slice(&Device::Cpu, &[0.0f32; 2], &[1, 2])?;
//! linear::forward(&x, &weight, &mut y)?;
//! assert_eq!(y.as_slice::<f32>()?, [32.0, 32.0]);
//! # Ok::<(), kiungo::ops::OpError>(())
//! ```

pub(super) mod fused;

use super::Result;
use super::check::{Allowed, Check, F32, FLOAT};
use super::gemm::{self, Layout, gemm};
use super::nf4::{Nf4Tensor, dequantize};
use crate::device::{DType, Device, Tensor};

/// A linear layer's weight, `[out, in]`.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a model holds a few hundred")]
pub enum Weight {
    /// As it is: f32 or bf16.
    Dense(Tensor),
    /// In 4 bits; computed with as `bf16(code * absmax)`.
    Nf4(Nf4Tensor),
}

impl Weight {
    /// `[out, in]`.
    pub fn shape(&self) -> &[usize] {
        match self {
            Weight::Dense(w) => w.shape(),
            Weight::Nf4(w) => &w.shape,
        }
    }

    /// Bytes it takes on its device.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Dense(w) => w.bytes(),
            Weight::Nf4(w) => w.bytes(),
        }
    }

    /// What it is held in.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Weight::Dense(w) => vec![w],
            Weight::Nf4(w) => w.tensors(),
        }
    }

    /// Dequantises a 4-bit weight to bf16 for good, with the values that it is computed with; true if it was one.
    ///
    /// On the CPU, whose products are f32, it stays as it is.
    pub fn expand(&mut self) -> Result<bool> {
        let Weight::Nf4(codes) = self else { return Ok(false) };
        let device = codes.codes.device();
        if device.is_cpu() {
            return Ok(false);
        }
        let mut dense = Tensor::uninitialized(&device, DType::Bf16, &codes.shape)?;
        dequantize(codes, &mut dense)?;
        *self = Weight::Dense(dense);
        Ok(true)
    }

    /// Bytes of the [workspace](crate::device::Gpu::reserve) that its products need at most.
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Weight::Dense(_) => 0,
            Weight::Nf4(w) => w.shape.iter().product::<usize>() * DType::Bf16.size(),
        }
    }

    /// Calls `f` with the weight as a plain matrix, dequantised for this call if need be.
    pub(super) fn with_dense<R>(&self, f: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
        match self {
            Weight::Dense(w) => f(w),
            Weight::Nf4(w) => {
                // f32 on the CPU, whose products are f32; its values are those of bf16.
                let device = w.codes.device();
                let dtype = if device.is_cpu() { DType::F32 } else { DType::Bf16 };
                let mut dense = Tensor::scratch(&device, dtype, &w.shape)?;
                dequantize(w, &mut dense)?;
                f(&dense)
            }
        }
    }

    /// Outputs and inputs, of a weight on the device of the call.
    pub(super) fn check(&self, check: &Check) -> Result<(usize, usize)> {
        match self {
            Weight::Dense(w) => {
                check.dtype("weight", w, FLOAT)?;
                check.matrix("weight", w)
            }
            Weight::Nf4(w) => {
                w.check(check)?;
                Ok((w.shape[0], w.shape[1]))
            }
        }
    }
}

/// `y = x W^T`.
///
/// - `x`: `[tokens, in]`, f32 or bf16
/// - `weight`: `[out, in]`
/// - `y`: `[tokens, out]`, of `x`'s type
pub fn forward(x: &Tensor, weight: &Weight, y: &mut Tensor) -> Result {
    let check = Check::new("linear", x);
    let (outputs, inputs) = weight.check(&check)?;
    let (tokens, _) = check.matrix("x", x)?;
    check.tensor("x", x, &[tokens, inputs], FLOAT)?;
    check.tensor("y", y, &[tokens, outputs], Allowed::Only(x.dtype()))?;
    if let (Weight::Nf4(weight), Device::Cuda(gpu)) = (weight, check.device())
        && let Some(launch) = fused::forward(gpu, x, weight, y)?
    {
        return Ok(gpu.launch(&launch)?);
    }
    weight.with_dense(|w| gemm(Layout::Nt, x, w, y, false))
}

/// [`forward`] of layers that read the same x, each weight with its y. On a Hopper GPU those in 4 bits share a launch where
/// tokens are few.
pub fn forward_all(x: &Tensor, layers: &mut [(&Weight, &mut Tensor)]) -> Result {
    let check = Check::new("linear", x);
    let mut together = vec![];
    for (weight, y) in layers.iter() {
        let (outputs, inputs) = weight.check(&check)?;
        check.tensor("x", x, &[x.rows(), inputs], FLOAT)?;
        check.tensor("y", y, &[x.rows(), outputs], Allowed::Only(x.dtype()))?;
        if let Weight::Nf4(weight) = weight {
            together.push((weight, &**y));
        }
    }
    if let Device::Cuda(gpu) = check.device()
        && together.len() == layers.len()
        && let Some(launch) = fused::forward_together(gpu, x, &together)?
    {
        return Ok(gpu.launch(&launch)?);
    }
    layers.iter_mut().try_for_each(|(weight, y)| forward(x, weight, y))
}

/// Gradient of [`forward`] with respect to `x`: `dx = dy W`, or with `accumulate` `dx += dy W`, rounded once.
///
/// - `dy`: `[tokens, out]`, f32 or bf16
/// - `weight`: `[out, in]`
/// - `dx`: `[tokens, in]`, of `dy`'s type
pub fn backward_input(dy: &Tensor, weight: &Weight, dx: &mut Tensor, accumulate: bool) -> Result {
    let check = Check::new("linear backward", dy);
    let (outputs, inputs) = weight.check(&check)?;
    let (tokens, _) = check.matrix("dy", dy)?;
    check.tensor("dy", dy, &[tokens, outputs], FLOAT)?;
    check.tensor("dx", dx, &[tokens, inputs], Allowed::Only(dy.dtype()))?;
    if let (Weight::Nf4(weight), Device::Cuda(gpu)) = (weight, check.device())
        && let Some(launches) = fused::backward_input(gpu, dy, weight, dx, accumulate)?
    {
        return launches.iter().try_for_each(|launch| Ok(gpu.launch(launch)?));
    }
    weight.with_dense(|w| gemm(Layout::Nn, dy, w, dx, accumulate))
}

/// Gradient with respect to an x that several layers read: `dx = dy_0 W_0 + dy_1 W_1 + ...`, each dy with its weight, as in
/// [`backward_input`]. On a Hopper GPU two dense layers of many tokens are one product, as are up to three layers in 4 bits of
/// few tokens, rounded once.
pub fn backward_inputs(layers: &[(&Tensor, &Weight)], dx: &mut Tensor) -> Result {
    let check = Check::new("linear backward", dx);
    for (dy, weight) in layers {
        let (outputs, inputs) = weight.check(&check)?;
        check.tensor("dx", dx, &[dx.rows(), inputs], FLOAT)?;
        check.tensor("dy", dy, &[dx.rows(), outputs], Allowed::Only(dx.dtype()))?;
    }
    if backward_together(layers, dx)? {
        return Ok(());
    }
    let dense = layers.iter().map(|(dy, weight)| match weight {
        Weight::Dense(w) => Some((*dy, w)),
        Weight::Nf4(_) => None,
    });
    if let Some(dense) = dense.collect::<Option<Vec<_>>>() {
        return backward_dense(&dense, dx);
    }
    for (i, (dy, weight)) in layers.iter().enumerate() {
        backward_input(dy, weight, dx, i > 0)?;
    }
    Ok(())
}

/// [`backward_inputs`] of dense layers.
pub(super) fn backward_dense(layers: &[(&Tensor, &Tensor)], dx: &mut Tensor) -> Result {
    let (mut left, mut accumulate) = (layers, false);
    if let [first, second, rest @ ..] = layers
        && backward_two(*first, *second, dx)?
    {
        (left, accumulate) = (rest, true);
    }
    for (dy, w) in left {
        gemm(Layout::Nn, dy, w, dx, accumulate)?;
        accumulate = true;
    }
    Ok(())
}

/// All layers in one product, where they are in 4 bits; false where there is none.
fn backward_together(layers: &[(&Tensor, &Weight)], dx: &mut Tensor) -> Result<bool> {
    let mut together = vec![];
    for (dy, weight) in layers {
        let Weight::Nf4(weight) = weight else { return Ok(false) };
        together.push((weight, *dy));
    }
    let Device::Cuda(gpu) = dx.device() else { return Ok(false) };
    let Some(launches) = fused::backward_inputs(&gpu, &together, dx)? else { return Ok(false) };
    launches.iter().try_for_each(|launch| gpu.launch(launch))?;
    Ok(true)
}

/// Both in one launch; false where there is none.
fn backward_two((dy, w): (&Tensor, &Tensor), (more_dy, more_w): (&Tensor, &Tensor), dx: &mut Tensor) -> Result<bool> {
    let Device::Cuda(gpu) = dx.device() else { return Ok(false) };
    let Some(launch) = gemm::cuda::two(&gpu, [dy, more_dy], [w, more_w], dx)? else { return Ok(false) };
    gpu.launch(&launch)?;
    Ok(true)
}

/// Gradient of [`forward`] with respect to the weight: `dw += dy^T x`.
///
/// - `dy`: `[tokens, out]`, `x`: `[tokens, in]`, f32 or bf16, the same type
/// - `dw`: `[out, in]`, f32, added to
pub fn backward_weight(dy: &Tensor, x: &Tensor, dw: &mut Tensor) -> Result {
    let check = Check::new("linear backward", x);
    let (tokens, inputs) = check.matrix("x", x)?;
    let (_, outputs) = check.matrix("dy", dy)?;
    check.dtype("x", x, FLOAT)?;
    check.tensor("dy", dy, &[tokens, outputs], Allowed::Only(x.dtype()))?;
    check.tensor("dw", dw, &[outputs, inputs], F32)?;
    gemm(Layout::Tn, dy, x, dw, true)
}
