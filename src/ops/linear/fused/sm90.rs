//! Launches of `linear_sm90.cu`: few tokens, on Hopper; and what those of the gradient of the input share with them.

use super::{BLOCK, MAP_BYTES, Names, names};
use crate::device::{DType, Launch, TensorMap};
use crate::ops::params::{KIUNGO_NF4_LAYERS, Nf4BackwardSm90Params, Nf4LinearParams, Nf4LinearSm90Params};
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

const KERNELS: [Kernel; 6] = [
    Kernel { tokens: 16, depth: 256, stages: 6, threads: 640, names: names!("linear_sm90", 16) },
    Kernel { tokens: 32, depth: 256, stages: 4, threads: 384, names: names!("linear_sm90", 32) },
    Kernel { tokens: 64, depth: 256, stages: 3, threads: 384, names: names!("linear_sm90", 64) },
    Kernel { tokens: 80, depth: 128, stages: 5, threads: 384, names: names!("linear_sm90", 80) },
    Kernel { tokens: 96, depth: 128, stages: 4, threads: 384, names: names!("linear_sm90", 96) },
    Kernel { tokens: 128, depth: 128, stages: 3, threads: 384, names: names!("linear_sm90", 128) },
];
/// Of the weight a block of threads.
const OUTPUTS: usize = 128;
/// Layers of one x in a launch.
pub const LAYERS: usize = KIUNGO_NF4_LAYERS as usize;
/// Bytes of a tensor map.
pub const MAP_SIZE: usize = size_of::<crate::ops::params::TensorMap>();
/// Stages begin at multiples of this, as swizzled lines do.
const STAGE_ALIGNMENT: usize = 1024;

/// Shared memory of a ring of stages of so many bytes around a table: those that fit below it, the table, the others, the map
/// and the barriers.
pub fn around_table(stages: usize, bytes: usize) -> u32 {
    let bytes = bytes.next_multiple_of(STAGE_ALIGNMENT);
    let above = stages.saturating_sub(BELOW_TABLE / bytes);
    (BELOW_TABLE + TABLE_BYTES + above * bytes + MAP_BYTES + stages * 2 * 8) as u32
}

/// Whether these kernels take so many tokens.
pub fn takes(tokens: usize) -> bool {
    KERNELS.iter().any(|kernel| tokens <= kernel.tokens)
}

/// `y = x W^T` of up to [`LAYERS`] layers of one x and one kind of scales; None for more tokens than a kernel takes, and of
/// several layers where they are more than all multiprocessors take at once.
pub fn forward(double: bool, multiprocessors: usize, layers: &[Nf4LinearParams]) -> Option<Launch> {
    let first = layers.first()?;
    let [rows, inputs] = [first.m, first.k].map(|x| x as usize);
    let kernel = KERNELS.iter().find(|k| rows <= k.tokens)?;
    let tiles = layers.iter().map(|layer| (layer.n as usize).div_ceil(OUTPUTS)).sum();
    if layers.len() > LAYERS || (layers.len() > 1 && tiles > multiprocessors) {
        return None;
    }
    let splits = splits(tiles, inputs.div_ceil(kernel.depth), multiprocessors);
    let stage = OUTPUTS * kernel.depth / 2 + kernel.tokens * kernel.depth * DType::Bf16.size();
    let mut params = Nf4LinearSm90Params { splits: splits as u32, ..Default::default() };
    for (i, layer) in layers.iter().enumerate() {
        (params.layers[i], params.tiles[i]) = (*layer, layer.n.div_ceil(OUTPUTS as u32));
    }
    let x = TensorMap { address: first.x, shape: [rows, inputs], block: [kernel.tokens, BLOCK] };
    let launch =
        Launch::new("linear_sm90", kernel.names.of(double), [(tiles * splits) as u32, 1, 1], kernel.threads, params)
            .shared(around_table(kernel.stages, stage))
            .cluster(splits as u32)
            .tensor_map(offset_of!(Nf4LinearSm90Params, x), x);
    Some(layers.iter().enumerate().fold(launch, |launch, (i, layer)| {
        // Four codes are the two bytes of a bf16.
        let shape = [layer.n as usize, inputs / 4];
        let codes = TensorMap { address: layer.codes, shape, block: [OUTPUTS, kernel.depth / 4] };
        launch.tensor_map(offset_of!(Nf4LinearSm90Params, codes) + i * MAP_SIZE, codes)
    }))
}

/// In how many parts, which are the blocks of a cluster, a tile's inputs are taken: as many as leave every block a
/// multiprocessor, with some to spare, for a cluster needs neighbours.
fn splits(tiles: usize, steps: usize, multiprocessors: usize) -> usize {
    const MOST: usize = 8;
    let spare = multiprocessors * 7 / 8;
    (1..=MOST.min(steps)).rev().find(|splits| tiles * splits <= spare).unwrap_or(1)
}

/// The launch with [`Nf4BackwardSm90Params`]' maps of each layer's codes, four in a bf16, and dy, in blocks of so many rows and
/// columns.
pub fn with_maps(launch: Launch, layers: &[Nf4LinearParams], codes: [usize; 2], dy: [usize; 2]) -> Launch {
    layers.iter().enumerate().fold(launch, |launch, (i, layer)| {
        let [rows, outputs, inputs] = [layer.m, layer.n, layer.k].map(|x| x as usize);
        let codes = TensorMap { address: layer.codes, shape: [outputs, inputs / 4], block: codes };
        let dy = TensorMap { address: layer.x, shape: [rows, outputs], block: dy };
        launch
            .tensor_map(offset_of!(Nf4BackwardSm90Params, codes) + i * MAP_SIZE, codes)
            .tensor_map(offset_of!(Nf4BackwardSm90Params, dy) + i * MAP_SIZE, dy)
    })
}
