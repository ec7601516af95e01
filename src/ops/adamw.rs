//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), as PyTorch computes it.
//!
//! # Cost and error
//!
//! - Cost: one pass over five arrays: 28 bytes a parameter (gradient, weight and moments read, all but the gradient
//!   written) and `b` for the copy; about 15 FLOPs a parameter. With a bf16 gradient and weights, 22 bytes with f32
//!   moments, 14 with bf16 and 10 with 8-bit ones.
//! - Error: a weight within 1e-7 of PyTorch, its update within 1e-5; a GPU gives the CPU's bytes.

pub mod codes;
mod linear;
mod moments;

pub use linear::{
    LinearLayer, measure_embedding, measure_linear, update_embedding, update_embedding_workspace, update_linear,
    update_linear_squares, update_linear_workspace, update_linears,
};
pub use moments::{BLOCK, Moments, Precision, Rounding, update, update_from};

use super::check::{Check, F32, FLOAT};
use super::float::with_float;
use super::step::{State, Status};
use crate::device::{DType, Device, Tensor};

/// Hyperparameters. They are f64 because `1 - beta` and the bias corrections are: `1 - 0.999` taken in f32 is off
/// by 5e-5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight that goes at each step, times `lr`.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's defaults: 1e-3, 0.9, 0.999, 1e-8, 0.01.
    fn default() -> AdamW {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// What one step multiplies with, from [`AdamW`] and the step's number.
pub type Coefficients = super::params::AdamwFactors;

impl AdamW {
    /// The factors of step `t`, counted from 1.
    pub fn coefficients(&self, t: u32) -> Coefficients {
        let correction = |beta: f64| 1.0 - beta.powf(t.into());
        Coefficients {
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            gradient: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            square: (1.0 - self.beta2) as f32,
            root_correction: correction(self.beta2).sqrt() as f32,
            eps: self.eps as f32,
            step_size: (self.lr / correction(self.beta1)) as f32,
            unused: 0.0,
        }
    }

    fn check(&self, check: &Check, t: u32) -> super::Result {
        check.value(t > 0, || "step 0: steps count from 1".into())?;
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            check.value((0.0..1.0).contains(&beta), || format!("{name} is {beta}, expected 0 or more and below 1"))?;
        }
        for (name, x) in [("lr", self.lr), ("eps", self.eps), ("weight_decay", self.weight_decay)] {
            check.value(x >= 0.0 && x.is_finite(), || format!("{name} is {x}, expected 0 or more"))?;
        }
        Ok(())
    }
}

/// Step `t`, counted from 1, of all elements of a parameter.
///
/// ```text
/// w *= 1 - lr * weight_decay
/// m += (1 - beta1) * (g - m)
/// v  = beta2 * v + (1 - beta2) * g^2
/// w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// copy = w
/// ```
///
/// - `w`, `g`, `m`, `v`: any shape, all the same, f32; `m` and `v` start as zeros
/// - `copy`: the same shape, f32 or bf16, out: the new weights as the forward pass reads them
pub fn step(
    adamw: &AdamW,
    t: u32,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    copy: Option<&mut Tensor>,
) -> super::Result {
    adamw.check(&Check::new("adamw", w), t)?;
    run(Source::Host(adamw.coefficients(t), t), w, g, m, v, copy)
}

/// The same with what stands in memory of the device: the factors of `state`, and the gradient times the factor of
/// `status`. Changes nothing where `status` says that a step has failed.
pub fn step_from(
    state: &State,
    status: &Status,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    copy: Option<&mut Tensor>,
) -> super::Result {
    let check = Check::new("adamw", w);
    state.check(&check)?;
    status.check(&check)?;
    run(Source::Device(state, status), w, g, m, v, copy)
}

/// Where a step's factors stand.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The factors and the step's number.
    Host(Coefficients, u32),
    Device(&'a State, &'a Status),
}

impl Source<'_> {
    /// On the CPU: the factors, that of the gradient, and the step's number; None where a step has failed.
    fn read(&self) -> super::Result<Option<(Coefficients, f32, u32)>> {
        match self {
            Source::Host(coefficients, t) => Ok(Some((*coefficients, 1.0, *t))),
            Source::Device(state, status) => {
                let (state, status) = (state.read()?, status.read()?);
                Ok((status.stopped == 0).then_some((state.adamw, status.factor, state.step)))
            }
        }
    }
}

fn run(
    source: Source,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    copy: Option<&mut Tensor>,
) -> super::Result {
    let check = Check::new("adamw", w);
    check.dtype("w", w, F32)?;
    check.like("g", g, w)?;
    check.like("m", m, w)?;
    check.like("v", v, w)?;
    if let Some(copy) = &copy {
        check.tensor("copy", copy, w.shape(), FLOAT)?;
    }
    match check.device() {
        Device::Cpu => {
            let Some((coefficients, clip, _)) = source.read()? else { return Ok(()) };
            on_cpu(&coefficients, clip, w, g, m, v, copy)?;
        }
        Device::Cuda(gpu) if !w.is_empty() => gpu.launch(&cuda::step(source, w, g, m, v, copy.as_deref())?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// All f32, but for the copy.
fn on_cpu(
    coefficients: &Coefficients,
    clip: f32,
    w: &mut Tensor,
    g: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    copy: Option<&mut Tensor>,
) -> super::Result {
    let (w, g, m, v) = (w.as_mut_slice()?, g.as_slice()?, m.as_mut_slice()?, v.as_mut_slice()?);
    let dtype = copy.as_ref().map_or(DType::F32, |copy| copy.dtype());
    with_float!(dtype, T => {
        let copy = copy.map(|copy| copy.as_mut_slice::<T>()).transpose()?;
        cpu::step(coefficients, clip, w, g, m, v, copy);
    });
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::Coefficients;
    use crate::ops::Float;
    use rayon::prelude::*;

    /// Elements a task: its four streams fit a core's cache, where the copy finds the new weights again.
    const CHUNK: usize = 8192;

    /// See [`super::step`], with the gradient times `clip`. Bound by memory, given the processor's widest vectors, which `pulp` finds at run time; the
    /// results do not depend on them.
    pub fn step<T: Float>(
        c: &Coefficients,
        clip: f32,
        w: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        copy: Option<&mut [T]>,
    ) {
        let arch = pulp::Arch::new();
        let chunks =
            w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        match copy {
            None => chunks.for_each(|(((w, g), m), v)| {
                arch.dispatch(
                    #[inline(always)]
                    || update(c, clip, w, g, m, v),
                )
            }),
            Some(copy) => chunks.zip(copy.par_chunks_mut(CHUNK)).for_each(|((((w, g), m), v), copy)| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        update(c, clip, w, g, m, v);
                        round(w, copy);
                    },
                )
            }),
        }
    }

    /// The operations and their order are those of PyTorch.
    #[inline(always)]
    pub(super) fn update(c: &Coefficients, clip: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            // One that is not finite reaches no weight: where one learns before the norm is known, only the norm shows it.
            let g = if g.is_finite() { g * clip } else { 0.0 };
            *m += c.gradient * (g - *m);
            *v = *v * c.beta2 + c.square * g * g;
            let denominator = v.sqrt() / c.root_correction + c.eps;
            *w = *w * c.decay - c.step_size * *m / denominator;
        }
    }

    #[inline(always)]
    fn round<T: Float>(w: &[f32], copy: &mut [T]) {
        for (copy, w) in copy.iter_mut().zip(w) {
            *copy = T::from_f32(*w);
        }
    }
}

mod cuda {
    use super::{BLOCK, Moments, Rounding, Source};
    use crate::device::{DType, Gpu, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::AdamwParams;

    /// Threads of a block with 8-bit moments, of which a warp has four quantisation blocks.
    const THREADS: u32 = 256;
    /// Such blocks a multiprocessor.
    const RESIDENT: u32 = 2;

    fn params(
        source: Source,
        w: &Tensor,
        g: Option<&Tensor>,
        m: &Tensor,
        v: &Tensor,
        copy: Option<&Tensor>,
    ) -> Result<AdamwParams> {
        let (factors, step, state, status) = match source {
            Source::Host(factors, t) => (factors, t, 0, 0),
            Source::Device(state, status) => (Default::default(), 0, state.address()?, status.address()?),
        };
        Ok(AdamwParams {
            w: w.address()?,
            g: g.map_or(Ok(0), |g| g.address())?,
            m: m.address()?,
            v: v.address()?,
            copy: copy.map_or(Ok(0), |copy| copy.address())?,
            copy_is_bf16: copy.is_some_and(|copy| copy.dtype() == DType::Bf16).into(),
            count: w.len() as u64,
            state,
            status,
            factors,
            step,
            ..Default::default()
        })
    }

    pub fn step(
        source: Source,
        w: &Tensor,
        g: &Tensor,
        m: &Tensor,
        v: &Tensor,
        copy: Option<&Tensor>,
    ) -> Result<Launch> {
        Ok(eight_a_thread("adamw", "adamw_f32_f32_f32", w.len(), params(source, w, Some(g), m, v, copy)?))
    }

    /// The parameters of an update; `g` None: its gradient comes from elsewhere.
    pub fn update_params(
        source: Source,
        rounding: Rounding,
        w: &Tensor,
        g: Option<&Tensor>,
        moments: &Moments,
        copy: Option<&Tensor>,
        squares: Option<&Tensor>,
    ) -> Result<AdamwParams> {
        let mut params = params(source, w, g, &moments.first, &moments.second, copy)?;
        params.squares = squares.map_or(Ok(0), Tensor::address)?;
        (params.seed_low, params.seed_high) = (rounding.seed as u32, (rounding.seed >> 32) as u32);
        params.stream = rounding.stream;
        if let Some(blocks) = &moments.blocks {
            params.m_exponents = blocks.first.address()?;
            params.v_exponents = blocks.second.address()?;
        }
        Ok(params)
    }

    #[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
    pub fn update(
        gpu: &Gpu,
        source: Source,
        rounding: Rounding,
        w: &Tensor,
        g: &Tensor,
        moments: &Moments,
        copy: Option<&Tensor>,
        squares: Option<&Tensor>,
    ) -> Result<Launch> {
        let params = update_params(source, rounding, w, Some(g), moments, copy, squares)?;
        let bf16 = |t: &Tensor| t.dtype() == DType::Bf16;
        if moments.blocks.is_none() {
            let kernel = match (bf16(w), bf16(g), bf16(&moments.first)) {
                (false, false, false) => "adamw_f32_f32_f32",
                (false, true, false) => "adamw_f32_bf16_f32",
                (true, false, false) => "adamw_bf16_f32_f32",
                (true, true, false) => "adamw_bf16_bf16_f32",
                (false, false, true) => "adamw_f32_f32_bf16",
                (false, true, true) => "adamw_f32_bf16_bf16",
                (true, false, true) => "adamw_bf16_f32_bf16",
                (true, true, true) => "adamw_bf16_bf16_bf16",
            };
            return Ok(eight_a_thread("adamw", kernel, w.len(), params));
        }
        let kernel = match (bf16(w), bf16(g)) {
            (false, false) => "adamw_8bit_f32_f32",
            (false, true) => "adamw_8bit_f32_bf16",
            (true, false) => "adamw_8bit_bf16_f32",
            (true, true) => "adamw_8bit_bf16_bf16",
        };
        let needed = w.len().div_ceil(4 * BLOCK * THREADS as usize / 32);
        let grid = ((gpu.multiprocessors() * RESIDENT) as usize).min(needed) as u32;
        Ok(Launch::new("adamw_8bit", kernel, [grid, 1, 1], THREADS, params))
    }
}
