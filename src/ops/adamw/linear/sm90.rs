//! The launches of `adamw_linear_sm90.cu`: layers of one x learn, and x's gradient comes of the same pass over their weights.

use super::super::cuda::update_params;
use super::{LinearLayer, Precision, Source};
use crate::device::{DType, Gpu, Launch, Tensor, TensorMap};
use crate::ops::Result;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::params::{
    AdamwLinearLayer, AdamwLinearMaps, AdamwLinearShares, AdamwLinearSm90Params, AdamwLinearSumParams,
    KIUNGO_ADAMW_BLOCK, KIUNGO_ADAMW_SM90_LAYERS, KIUNGO_ADAMW_SM90_ROWS, KIUNGO_ADAMW_SM90_STAGE,
    KIUNGO_ADAMW_SM90_STAGES, KIUNGO_ADAMW_SM90_THREADS, KIUNGO_ADAMW_SM90_TOKENS,
};
use std::mem::offset_of;

const MODULE: &str = "adamw_linear_sm90";
const STRIP: usize = KIUNGO_ADAMW_BLOCK as usize;
const ROWS: usize = KIUNGO_ADAMW_SM90_ROWS as usize;
const TOKENS: usize = KIUNGO_ADAMW_SM90_TOKENS as usize;
/// Columns of a slab of weights, and of two bytes of moments each.
const SLAB: usize = 64;
/// What a block that goes on to another strip of columns loses, in stages: its warps wait for each other, then for x.
const RELOAD: f64 = 1.5;

/// Whether the kernel takes a weight `[out, in]` with so many tokens.
pub fn fits(gpu: &Gpu, tokens: usize, [outputs, inputs]: [usize; 2]) -> bool {
    let blocks = gpu.multiprocessors() as usize;
    let shape = outputs.is_multiple_of(8) && inputs.is_multiple_of(STRIP) && (1..=blocks).contains(&(inputs / STRIP));
    let indices = outputs.checked_mul(inputs / STRIP).is_some_and(|n| n <= u32::MAX as usize);
    gpu.capability() == HOPPER && (1..=TOKENS).contains(&tokens) && outputs > 0 && shape && indices
}

/// Whether one launch takes these layers of x.
pub fn fits_all(gpu: &Gpu, layers: &[LinearLayer], x: &Tensor, squares: &Tensor) -> bool {
    let (tokens, inputs) = (x.rows(), x.columns());
    let each = |layer: &LinearLayer| {
        let bf16 = layer.w.dtype() == DType::Bf16 && x.dtype() == DType::Bf16;
        bf16 && layer.moments.precision() == Precision::Blocks8 && fits(gpu, tokens, [layer.w.rows(), inputs])
    };
    let count = (1..=KIUNGO_ADAMW_SM90_LAYERS as usize).contains(&layers.len());
    count && layers.iter().all(each) && squares.len() * STRIP >= inputs
}

/// Bytes of what blocks leave of x's gradient, `[tokens, in]`.
pub fn workspace(gpu: &Gpu, inputs: usize) -> usize {
    parts(gpu, inputs) * TOKENS * STRIP * size_of::<f32>()
}

/// One for each block, and one more where a block of those left over goes on to another strip.
fn parts(gpu: &Gpu, inputs: usize) -> usize {
    gpu.multiprocessors() as usize + inputs / STRIP
}

/// The launches: the layers learn; and dx, if it is wanted.
pub fn update(
    gpu: &Gpu,
    source: Source,
    layers: &[LinearLayer],
    x: &Tensor,
    dx: Option<&Tensor>,
    squares: &Tensor,
) -> Result<Vec<Launch>> {
    let (tokens, inputs) = (x.rows(), x.columns());
    let stages = |layer: &LinearLayer| layer.w.rows().div_ceil(ROWS);
    let height = layers.iter().map(stages).sum();
    let blocks = (gpu.multiprocessors() as usize).min(squares.len());
    let shares = shares(blocks, inputs / STRIP, height);
    let parts = match dx {
        Some(_) => Tensor::scratch(&x.device(), DType::F32, &[parts(gpu, inputs), TOKENS * STRIP])?.address()?,
        None => 0,
    };
    let (tokens_u32, inputs_u32) = (tokens as u32, inputs as u32);
    let mut params = AdamwLinearSm90Params {
        x: x.address()?,
        parts,
        tokens: tokens_u32,
        inputs: inputs_u32,
        shares,
        ..Default::default()
    };
    let mut maps = vec![];
    for (i, layer) in layers.iter().enumerate() {
        let LinearLayer { dy, w, moments, rounding, .. } = layer;
        let outputs = w.rows();
        let adamw = update_params(source, *rounding, w, None, moments, None, Some(squares))?;
        params.layers[i] = AdamwLinearLayer { adamw, outputs: outputs as u32, stages: stages(layer) as u32 };
        let at = |field: usize| offset_of!(AdamwLinearSm90Params, maps) + i * size_of::<AdamwLinearMaps>() + field;
        let bytes = |address| TensorMap { address, shape: [outputs, inputs / 2], block: [ROWS, SLAB] };
        let weights = TensorMap { address: adamw.w, shape: [outputs, inputs], block: [ROWS, SLAB] };
        let dy = TensorMap { address: dy.address()?, shape: [tokens, outputs], block: [TOKENS, ROWS] };
        maps.push((at(offset_of!(AdamwLinearMaps, w)), weights));
        maps.push((at(offset_of!(AdamwLinearMaps, m)), bytes(adamw.m)));
        maps.push((at(offset_of!(AdamwLinearMaps, v)), bytes(adamw.v)));
        maps.push((at(offset_of!(AdamwLinearMaps, dy)), dy));
    }
    let grid = shares.members * shares.strips + shares.extras;
    let learn = Launch::new(MODULE, "adamw_linear_bf16_sm90", [grid, 1, 1], KIUNGO_ADAMW_SM90_THREADS, params)
        .shared(shared_bytes(tokens));
    let learn = maps.into_iter().fold(learn, |launch, (at, map)| launch.tensor_map(at, map));
    let Some(dx) = dx else { return Ok(vec![learn]) };
    let sum = AdamwLinearSumParams { parts, dx: dx.address()?, shares, tokens: tokens_u32, inputs: inputs_u32 };
    let sum = Launch::new(MODULE, "adamw_linear_dx_sum", [4 * shares.strips, 1, 1], 128, sum);
    Ok(vec![learn, sum])
}

/// The ring of stages, and a strip of x, whose tokens come by 32.
fn shared_bytes(tokens: usize) -> u32 {
    let line = (STRIP + 8) * DType::Bf16.size();
    KIUNGO_ADAMW_SM90_STAGES * KIUNGO_ADAMW_SM90_STAGE + (tokens.next_multiple_of(32) * line) as u32
}

/// Which of `height` stages of each strip are whose, where there are at least as many blocks as strips: those that do not divide
/// among strips take from all of them as much as makes them end with the others, or nothing where that saves no stage.
fn shares(blocks: usize, strips: usize, height: usize) -> AdamwLinearShares {
    let blocks = blocks.min(strips * height);
    let (members, extras) = (blocks / strips, blocks % strips);
    let upper = if extras == 0 {
        height
    } else {
        // upper / members = (height - upper) * each + RELOAD * (each + 1)
        let each = strips as f64 / extras as f64;
        let upper = (height as f64 * each + RELOAD * (each + 1.0)) / (1.0 / members as f64 + each);
        let upper = (upper.ceil() as usize).min(height);
        if upper.div_ceil(members) < height.div_ceil(members) { upper } else { height }
    };
    let extras = if upper == height { 0 } else { extras };
    let [strips, height, upper, members, extras] = [strips, height, upper, members, extras].map(|n| n as u32);
    AdamwLinearShares { strips, height, upper, members, extras, unused: 0 }
}
