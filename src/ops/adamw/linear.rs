//! AdamW on the weight of a linear layer as soon as its gradient can be computed, which is not kept.

use super::Source;
use super::moments::{self, Moments, Rounding};
use crate::device::{DType, Tensor};
use crate::ops::check::{Allowed, Check, FLOAT};
use crate::ops::gemm::{Layout, gemm};
use crate::ops::step::{State, Status};
use crate::ops::{Result, clip};

/// Bytes of the [workspace](crate::device::Gpu::reserve) that [`update_linear`] needs for a weight: a gradient of its type.
pub fn update_linear_workspace(w: &Tensor) -> usize {
    w.bytes()
}

/// How many sums of squares [`update_linear`] and [`measure_linear`] may write for a weight of `len` elements.
pub fn update_linear_squares(len: usize) -> usize {
    moments::sums(len).max(clip::sums(len))
}

/// [`update_from`](super::update_from) with the gradient of `y = x W^T` with respect to `W`, `g = dy^T x`, which is rounded
/// to the weight's type at most.
///
/// - `dy`: `[tokens, out]`, `x`: `[tokens, in]`, f32 or bf16, the same type
/// - `w`: `[out, in]`, f32 or bf16; `moments` of that shape
/// - `copy`: the same shape, f32 or bf16, out: the new weights rounded to nearest; of f32 weights only
/// - `squares`: `[n]`, f32, `n` at least [`update_linear_squares`]: parts of the gradient's sum of squares are added
#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn update_linear(
    state: &State,
    status: &Status,
    rounding: Rounding,
    dy: &Tensor,
    x: &Tensor,
    w: &mut Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
    squares: &mut Tensor,
) -> Result {
    let check = Check::new("adamw", w);
    state.check(&check)?;
    status.check(&check)?;
    let (outputs, inputs) = check.matrix("w", w)?;
    check.dtype("x", x, FLOAT)?;
    check.tensor("x", x, &[x.rows(), inputs], FLOAT)?;
    check.tensor("dy", dy, &[x.rows(), outputs], Allowed::Only(x.dtype()))?;
    let gradient = gradient(dy, x, w)?;
    moments::run(Source::Device(state, status), rounding, w, &gradient, moments, copy, Some(squares))
}

/// Adds parts of the sum of squares of the gradient that [`update_linear`] would take to `squares[..]`, and changes nothing
/// else.
pub fn measure_linear(dy: &Tensor, x: &Tensor, w: &Tensor, squares: &mut Tensor) -> Result {
    let check = Check::new("adamw", w);
    check.matrix("w", w)?;
    clip::add_squares(&gradient(dy, x, w)?, squares, 0)
}

/// In the workspace; f32 on the CPU, whose products are f32.
fn gradient(dy: &Tensor, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let device = w.device();
    let dtype = if device.is_cpu() { DType::F32 } else { w.dtype() };
    let mut gradient = Tensor::scratch(&device, dtype, w.shape())?;
    gemm(Layout::Tn, dy, x, &mut gradient, false)?;
    Ok(gradient)
}
