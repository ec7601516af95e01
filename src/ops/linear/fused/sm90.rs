//! Launches of `linear_sm90.cu`: few tokens, on Hopper.

use super::{BLOCK, MAP_BYTES, Names, names};
use crate::device::{DType, Launch, TensorMap};
use crate::ops::params::{Nf4LinearParams, Nf4LinearSm90Params};
use std::mem::offset_of;

/// Tables of pairs of values lie at a multiple of 64 KB; what is below it is short of what the system keeps.
pub const TABLE_BYTES: usize = 1 << 16;
pub const BELOW_TABLE: usize = TABLE_BYTES - 1024;

/// A kernel for up to so many tokens; it knows the rest too.
struct Kernel {
    tokens: usize,
    /// Inputs of a stage.
    depth: usize,
    stages: usize,
    threads: u32,
    names: Names,
}

const KERNELS: [Kernel; 4] = [
    Kernel { tokens: 16, depth: 256, stages: 6, threads: 640, names: names!("linear_sm90", 16) },
    Kernel { tokens: 32, depth: 256, stages: 4, threads: 384, names: names!("linear_sm90", 32) },
    Kernel { tokens: 64, depth: 256, stages: 3, threads: 384, names: names!("linear_sm90", 64) },
    Kernel { tokens: 128, depth: 128, stages: 3, threads: 384, names: names!("linear_sm90", 128) },
];
/// Of the weight a block of threads.
const OUTPUTS: usize = 128;
/// Stages begin at multiples of this, as swizzled lines do.
const STAGE_ALIGNMENT: usize = 1024;

/// Shared memory of a ring of stages of so many bytes around a table: those that fit below it, the table, the others, the map
/// and the barriers.
pub fn around_table(stages: usize, bytes: usize) -> u32 {
    let bytes = bytes.next_multiple_of(STAGE_ALIGNMENT);
    let above = stages.saturating_sub(BELOW_TABLE / bytes);
    (BELOW_TABLE + TABLE_BYTES + above * bytes + MAP_BYTES + stages * 2 * 8) as u32
}

/// `y = x W^T`; None for more tokens than a kernel takes.
pub fn forward(double: bool, multiprocessors: usize, linear: Nf4LinearParams) -> Option<Launch> {
    let [rows, outputs, inputs] = [linear.m, linear.n, linear.k].map(|x| x as usize);
    let kernel = KERNELS.iter().find(|k| rows <= k.tokens)?;
    let tiles = outputs.div_ceil(OUTPUTS);
    let splits = splits(tiles, inputs.div_ceil(kernel.depth), multiprocessors);
    let stage = OUTPUTS * kernel.depth / 2 + kernel.tokens * kernel.depth * DType::Bf16.size();
    // Four codes are the two bytes of a bf16.
    let codes = TensorMap { address: linear.codes, shape: [outputs, inputs / 4], block: [OUTPUTS, kernel.depth / 4] };
    let x = TensorMap { address: linear.x, shape: [rows, inputs], block: [kernel.tokens, BLOCK] };
    let params = Nf4LinearSm90Params { linear, splits: splits as u32, ..Default::default() };
    let grid = [(tiles * splits) as u32, 1, 1];
    Some(
        Launch::new("linear_sm90", kernel.names.of(double), grid, kernel.threads, params)
            .shared(around_table(kernel.stages, stage))
            .cluster(splits as u32)
            .tensor_map(offset_of!(Nf4LinearSm90Params, codes), codes)
            .tensor_map(offset_of!(Nf4LinearSm90Params, x), x),
    )
}

/// In how many parts, which are the blocks of a cluster, a tile's inputs are taken: as many as leave every block a
/// multiprocessor, with some to spare, for a cluster needs neighbours.
fn splits(tiles: usize, steps: usize, multiprocessors: usize) -> usize {
    const MOST: usize = 8;
    let spare = multiprocessors * 7 / 8;
    (1..=MOST.min(steps)).rev().find(|splits| tiles * splits <= spare).unwrap_or(1)
}
