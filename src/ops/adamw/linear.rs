//! AdamW on a weight as soon as its gradient can be computed, which is not kept: of a linear layer, or of the embedding.

mod cuda;
mod sm90;

use super::Source;
use super::moments::{self, Moments, Precision, Rounding};
use crate::device::{DType, Device, Gpu, Tensor};
use crate::ops::check::{Allowed, Check, FLOAT, U32};
use crate::ops::gemm::{Layout, gemm};
use crate::ops::linear::backward_dense;
use crate::ops::step::{State, Status};
use crate::ops::{Result, clip, embedding};

/// Bytes of the [workspace](crate::device::Gpu::reserve) that [`update_linear`], [`update_linears`] and [`measure_linear`] of so
/// many tokens need for a weight `[out, in]` of this type: where the gradient goes from the tensor cores to AdamW none, or what
/// blocks leave of x's gradient; else a gradient of the weight's type.
pub fn update_linear_workspace(gpu: &Gpu, tokens: usize, w: DType, shape: [usize; 2], precision: Precision) -> usize {
    let fused = cuda::fits(gpu, tokens, shape) && precision == Precision::Blocks8;
    match (fused, w) {
        (true, DType::Bf16) if sm90::fits(gpu, tokens, shape) => sm90::workspace(gpu, shape[1]),
        (true, _) => 0,
        (false, _) => shape[0] * shape[1] * w.size(),
    }
}

/// The same of [`update_embedding`] and [`measure_embedding`] for a table `[vocab, hidden]`.
pub fn update_embedding_workspace(gpu: &Gpu, tokens: usize, shape: [usize; 2], precision: Precision) -> usize {
    let [vocab, hidden] = shape;
    let fused = cuda::fits(gpu, tokens, shape) && precision == Precision::Blocks8;
    if fused { tokens * vocab * DType::Bf16.size() } else { vocab * hidden * DType::F32.size() }
}

/// How many sums of squares an update or a measurement may write for a weight of `len` elements.
pub fn update_linear_squares(len: usize) -> usize {
    moments::sums(len).max(clip::sums(len))
}

/// [`update_from`](super::update_from) with the gradient of `y = x W^T` with respect to `W`, `g = dy^T x`. It is f32 on the CPU,
/// and on CUDA where few bf16 tokens meet 8-bit moments; elsewhere it is rounded to the weight's type.
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
    update_linears(state, status, &mut [LinearLayer { dy, w, moments, copy, rounding }], x, None, squares)
}

/// A linear layer `y = x W^T` that learns by [`update_linears`].
#[derive(Debug)]
pub struct LinearLayer<'a> {
    /// The gradient of its output: `[tokens, out]`, f32 or bf16.
    pub dy: &'a Tensor,
    /// `[out, in]`, f32 or bf16.
    pub w: &'a mut Tensor,
    /// Of that shape.
    pub moments: &'a mut Moments,
    /// The same shape, f32 or bf16, out: the new weights rounded to nearest; of f32 weights only.
    pub copy: Option<&'a mut Tensor>,
    /// Where new weights, and second moments of 8 bits, are rounded at random.
    pub rounding: Rounding,
}

/// [`update_linear`] of layers that read the same x, and before they change `dx = dy_0 W_0 + dy_1 W_1 + ...`, if it is wanted,
/// with the copies where there are some, which the forward pass reads. On a Hopper GPU up to three bf16 weights with 8-bit
/// moments and at most 64 bf16 tokens are read once for both; dx is then added up in f32 and rounded once.
///
/// - `x`: `[tokens, in]`, `dx`: the same shape and type
/// - `squares`: parts of the sums of squares of all gradients are added
pub fn update_linears(
    state: &State,
    status: &Status,
    layers: &mut [LinearLayer],
    x: &Tensor,
    dx: Option<&mut Tensor>,
    squares: &mut Tensor,
) -> Result {
    let source = Source::Device(state, status);
    let op = Check::new("adamw", x);
    state.check(&op)?;
    status.check(&op)?;
    for layer in &*layers {
        let check = Check::new("adamw", layer.w);
        check_operands(&check, layer.dy, x, layer.w)?;
        moments::check(&check, layer.w, layer.moments, layer.copy.as_deref(), Some(squares))?;
    }
    if let Some(dx) = &dx {
        op.tensor("dx", dx, x.shape(), Allowed::Only(x.dtype()))?;
    }
    if let Device::Cuda(gpu) = op.device()
        && sm90::fits_all(gpu, layers, x, squares)
    {
        let launches = sm90::update(gpu, source, layers, x, dx.as_deref(), squares)?;
        return launches.iter().try_for_each(|launch| Ok(gpu.launch(launch)?));
    }
    if let Some(dx) = dx {
        let products: Vec<_> = layers.iter().map(|l| (l.dy, l.copy.as_deref().unwrap_or(l.w))).collect();
        backward_dense(&products, dx)?;
    }
    for LinearLayer { dy, w, moments, copy, rounding } in layers {
        match op.device() {
            Device::Cuda(gpu) if cuda::fits_all(gpu, x, w, moments) => {
                gpu.launch(&cuda::update(gpu, source, *rounding, dy, x, w, moments, copy.as_deref(), squares)?)?;
            }
            _ => {
                let gradient = gradient(dy, x, w)?;
                moments::run(source, *rounding, w, &gradient, moments, copy.as_deref_mut(), Some(squares))?;
            }
        }
    }
    Ok(())
}

/// Adds parts of the sum of squares of the gradient that [`update_linear`] would take to `squares[..]`, and changes nothing
/// else.
pub fn measure_linear(dy: &Tensor, x: &Tensor, w: &Tensor, moments: &Moments, squares: &mut Tensor) -> Result {
    let check = Check::new("adamw", w);
    check_operands(&check, dy, x, w)?;
    if let Device::Cuda(gpu) = check.device()
        && cuda::fits_all(gpu, x, w, moments)
    {
        moments::check_squares(&check, w, squares)?;
        return Ok(gpu.launch(&cuda::measure(gpu, dy, x, w, squares)?)?);
    }
    clip::add_squares(&gradient(dy, x, w)?, squares, 0)
}

/// [`update_linear`] for the table that [`embedding::forward`] reads: its gradient is `dy`, added up by token.
///
/// - `dy`: `[tokens, hidden]`, f32 or bf16; `ids`: `[tokens]`, u32
/// - `w`: `[vocab, hidden]`
#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn update_embedding(
    state: &State,
    status: &Status,
    rounding: Rounding,
    dy: &Tensor,
    ids: &Tensor,
    w: &mut Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
    squares: &mut Tensor,
) -> Result {
    if let Some(rows) = one_hot(dy, ids, w, moments)? {
        return update_linear(state, status, rounding, &rows, dy, w, moments, copy, squares);
    }
    let check = Check::new("adamw", w);
    state.check(&check)?;
    status.check(&check)?;
    let gradient = table_gradient(dy, ids, w)?;
    moments::run(Source::Device(state, status), rounding, w, &gradient, moments, copy, Some(squares))
}

/// [`measure_linear`] for [`update_embedding`].
pub fn measure_embedding(dy: &Tensor, ids: &Tensor, w: &Tensor, moments: &Moments, squares: &mut Tensor) -> Result {
    match one_hot(dy, ids, w, moments)? {
        Some(rows) => measure_linear(&rows, dy, w, moments, squares),
        None => clip::add_squares(&table_gradient(dy, ids, w)?, squares, 0),
    }
}

/// With it, in the workspace, the table is the weight of a linear layer; None where its gradient must be written anyway.
///
/// Products with 0 and 1 are exact, and multiplying all of them takes less time than writing and reading a gradient of which
/// next to nothing is not 0.
fn one_hot(dy: &Tensor, ids: &Tensor, w: &Tensor, moments: &Moments) -> Result<Option<Tensor>> {
    let check = Check::new("adamw", w);
    let (vocab, hidden) = check.matrix("w", w)?;
    check.tensor("ids", ids, &[ids.len()], U32)?;
    check.tensor("dy", dy, &[ids.len(), hidden], FLOAT)?;
    let Device::Cuda(gpu) = check.device() else { return Ok(None) };
    let fused = dy.dtype() == DType::Bf16 && moments.precision() == Precision::Blocks8;
    if !fused || !cuda::fits(gpu, ids.len(), [vocab, hidden]) {
        return Ok(None);
    }
    let mut rows = Tensor::scratch(&w.device(), DType::Bf16, &[ids.len(), vocab])?;
    embedding::one_hot(gpu, ids, &mut rows)?;
    Ok(Some(rows))
}

fn table_gradient(dy: &Tensor, ids: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut gradient = Tensor::scratch(&w.device(), DType::F32, w.shape())?;
    gradient.fill_zero()?;
    embedding::backward(dy, ids, &mut gradient)?;
    Ok(gradient)
}

fn check_operands(check: &Check, dy: &Tensor, x: &Tensor, w: &Tensor) -> Result {
    let (outputs, inputs) = check.matrix("w", w)?;
    check.tensor("x", x, &[x.rows(), inputs], FLOAT)?;
    check.tensor("dy", dy, &[x.rows(), outputs], Allowed::Only(x.dtype()))
}

/// In the workspace; f32 on the CPU, whose products are f32.
fn gradient(dy: &Tensor, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let device = w.device();
    let dtype = if device.is_cpu() { DType::F32 } else { w.dtype() };
    let mut gradient = Tensor::scratch(&device, dtype, w.shape())?;
    gemm(Layout::Tn, dy, x, &mut gradient, false)?;
    Ok(gradient)
}
