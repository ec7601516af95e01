//! An NF4 weight without a dequantised copy in memory: which kernel, if any, takes how many tokens.

mod backward;
mod backward_many;
mod few;
mod many;
mod sm80;
mod sm90;

use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::nf4::{Nf4Tensor, Scales};
use crate::ops::params::Nf4LinearParams;
pub use many::wins_by;

/// What a kernel is called over a weight with plain absmax, and with double-quantised ones.
struct Names {
    plain: &'static str,
    double: &'static str,
}

impl Names {
    fn of(&self, double: bool) -> &'static str {
        if double { self.double } else { self.plain }
    }
}

/// The names of a file's kernel for up to so many tokens.
macro_rules! names {
    ($file:literal, $tokens:literal) => {
        Names { plain: concat!($file, "_nf4_", $tokens), double: concat!($file, "_nf4_double_", $tokens) }
    };
}
use names;

/// Inputs that share an absmax.
const BLOCK: usize = 64;
/// Under double quantisation kernels take four blocks at once, which must share what scales their scales.
const FOUR_BLOCKS: usize = 4 * BLOCK;
/// The map of the scales.
const MAP_BYTES: usize = 256 * 4;

/// Whether a kernel that decodes weights in registers takes rows of so many inputs.
fn fits(inputs: usize, double: bool) -> bool {
    inputs.is_multiple_of(if double { FOUR_BLOCKS } else { BLOCK })
}

/// Whether a block has room for a table of values and the stages beside it, up to 145 KB before Hopper: on an A100 it has. Not
/// other cards with as much: the kernels know where dynamic shared memory begins on these alone (`tile/nf4_pairs.cuh`).
fn is_roomy(gpu: &Gpu) -> bool {
    const ROOMY: [u32; 2] = [80, HOPPER];
    ROOMY.contains(&gpu.capability())
}

/// The launch of `y = x W^T` of several layers of one x, or None where each is better, or must be, launched by itself.
pub fn forward_together(gpu: &Gpu, x: &Tensor, layers: &[(&Nf4Tensor, &Tensor)]) -> Result<Option<Launch>> {
    let Some((double, params)) = together(x, layers)? else { return Ok(None) };
    if gpu.capability() != HOPPER || x.rows() <= few::TOKENS {
        return Ok(None);
    }
    let multiprocessors = gpu.multiprocessors() as usize;
    match sm90::takes(x.rows()) {
        true => Ok(sm90::forward(double, multiprocessors, &params)),
        false if double => Ok(None),
        false => Ok(many::together(gpu, &params)),
    }
}

/// The launches of the sum of `dy W` over several layers, or None where it must be a sum of launches.
pub fn backward_inputs(gpu: &Gpu, layers: &[(&Nf4Tensor, &Tensor)], dx: &Tensor) -> Result<Option<Vec<Launch>>> {
    let Some((double, mut params)) = together(dx, layers)? else { return Ok(None) };
    for layer in &mut params {
        (layer.x, layer.y) = (layer.y, layer.x);
        if layer.n % 8 != 0 {
            return Ok(None);
        }
    }
    backward::launches(gpu, double, &params, false)
}

/// Whether scales are double-quantised, and what a kernel is told of each layer: of bf16 rows `x` that each makes rows of, for
/// layers of one kind that kernels take.
fn together(x: &Tensor, layers: &[(&Nf4Tensor, &Tensor)]) -> Result<Option<(bool, Vec<Nf4LinearParams>)>> {
    let double = layers.iter().any(|(weight, _)| is_double(weight));
    let same = layers.iter().all(|(weight, _)| is_double(weight) == double && fits(weight.shape[1], double));
    if layers.len() < 2 || !same || x.dtype() != DType::Bf16 || x.rows() == 0 {
        return Ok(None);
    }
    let params = layers.iter().map(|(weight, y)| params(x, weight, y)).collect::<Result<_>>()?;
    Ok(Some((double, params)))
}

/// The launch of `y = x W^T`, or None where the dequantised weight is the better way, or the only one.
pub fn forward(gpu: &Gpu, x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Option<Launch>> {
    let ([outputs, inputs], double) = (weight.shape, is_double(weight));
    if x.dtype() != DType::Bf16 || !fits(inputs, double) || x.rows() == 0 || !is_roomy(gpu) {
        return Ok(None);
    }
    let params = params(x, weight, y)?;
    let multiprocessors = gpu.multiprocessors() as usize;
    let few = few::forward(double, multiprocessors, params).or_else(|| match gpu.capability() {
        HOPPER => sm90::forward(double, multiprocessors, &[params]),
        _ => sm80::forward(double, params),
    });
    Ok(few.or_else(|| {
        let many = many::choose(gpu, [x.rows(), outputs, inputs], 0.0)?;
        Some(many.launch(multiprocessors, double, params))
    }))
}

/// The launches of `dx = dy W`, or `dx += dy W`; None where the dequantised weight is the only way.
pub fn backward_input(
    gpu: &Gpu,
    dy: &Tensor,
    weight: &Nf4Tensor,
    dx: &Tensor,
    accumulate: bool,
) -> Result<Option<Vec<Launch>>> {
    let ([outputs, inputs], double) = (weight.shape, is_double(weight));
    // Copies of 16 bytes of dy begin at multiples of 16.
    let fits = fits(inputs, double) && outputs.is_multiple_of(8);
    if dy.dtype() != DType::Bf16 || !fits || dy.rows() == 0 {
        return Ok(None);
    }
    backward::launches(gpu, double, &[params(dy, weight, dx)?], accumulate)
}

fn is_double(weight: &Nf4Tensor) -> bool {
    matches!(weight.scales, Scales::Double { .. })
}

/// Of rows `x` that a weight makes rows `y` of, in either direction.
fn params(x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Nf4LinearParams> {
    let [outputs, inputs] = weight.shape;
    let mut params = Nf4LinearParams {
        x: x.address()?,
        codes: weight.codes.address()?,
        y: y.address()?,
        m: x.rows() as u32,
        n: outputs as u32,
        k: inputs as u32,
        ..Default::default()
    };
    match &weight.scales {
        Scales::Plain { absmax } => params.absmax = absmax.address()?,
        Scales::Double { codes, nested, map, offset } => {
            params.absmax = nested.address()?;
            params.scale_codes = codes.address()?;
            params.map = map.address()?;
            params.offset = offset.address()?;
        }
    }
    Ok(params)
}
