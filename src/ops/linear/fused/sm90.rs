//! Launches of `linear_sm90.cu`: few tokens, on Hopper.

use super::{BLOCK, MAP_BYTES};
use crate::device::{DType, Launch, TensorMap};
use crate::ops::params::{Nf4LinearParams, Nf4LinearSm90Params};
use std::mem::offset_of;

/// Tables of pairs of values lie at a multiple of 64 KB; what is below it is short of what the system keeps.
pub const TABLE_BYTES: usize = 1 << 16;
pub const BELOW_TABLE: usize = TABLE_BYTES - 1024;

/// A kernel for up to so many tokens.
struct Kernel {
    tokens: usize,
    /// Inputs of a stage.
    depth: usize,
    stages: usize,
    threads: u32,
    plain: &'static str,
    double: &'static str,
}

/// The kernels know the depth, the stages and the threads too.
macro_rules! kernel {
    ($pass:literal, $tokens:literal, $depth:literal, $stages:literal, $threads:literal) => {
        Kernel {
            tokens: $tokens,
            depth: $depth,
            stages: $stages,
            threads: $threads,
            plain: concat!($pass, "_nf4_", $tokens),
            double: concat!($pass, "_nf4_double_", $tokens),
        }
    };
}
const FORWARD: [Kernel; 4] = [
    kernel!("linear_sm90", 16, 256, 6, 640),
    kernel!("linear_sm90", 32, 256, 4, 384),
    kernel!("linear_sm90", 64, 256, 3, 384),
    kernel!("linear_sm90", 128, 128, 3, 384),
];
/// Of the weight a block of threads.
const OUTPUTS: usize = 128;
/// Stages begin at multiples of this, as swizzled lines do.
pub const STAGE_ALIGNMENT: usize = 1024;

impl Kernel {
    fn of(kernels: &'static [Kernel], tokens: usize) -> Option<&'static Kernel> {
        kernels.iter().find(|k| tokens <= k.tokens)
    }

    /// A launch of `tiles` clusters with stages of `stage` bytes.
    fn launch(
        &self,
        file: &'static str,
        double: bool,
        tiles: usize,
        splits: usize,
        stage: usize,
        params: Nf4LinearSm90Params,
    ) -> Launch {
        // The stages that fit below the table, the table, the other stages, the map and the barriers.
        let stage = stage.next_multiple_of(STAGE_ALIGNMENT);
        let later = self.stages.saturating_sub(BELOW_TABLE / stage);
        let shared = BELOW_TABLE + TABLE_BYTES + later * stage + MAP_BYTES + self.stages * 2 * 8;
        let params = Nf4LinearSm90Params { splits: splits as u32, ..params };
        let name = if double { self.double } else { self.plain };
        Launch::new(file, name, [(tiles * splits) as u32, 1, 1], self.threads, params)
            .shared(shared as u32)
            .cluster(splits as u32)
    }

    /// Of a stage's x.
    fn rows_bytes(&self) -> usize {
        self.tokens * self.depth * DType::Bf16.size()
    }
}

/// `y = x W^T`; None for more tokens than a kernel takes.
pub fn forward(double: bool, multiprocessors: usize, linear: Nf4LinearParams) -> Option<Launch> {
    let [rows, outputs, inputs] = [linear.m, linear.n, linear.k].map(|x| x as usize);
    let kernel = Kernel::of(&FORWARD, rows)?;
    let tiles = outputs.div_ceil(OUTPUTS);
    let splits = splits(tiles, inputs.div_ceil(kernel.depth), multiprocessors);
    let stage = OUTPUTS * kernel.depth / 2 + kernel.rows_bytes();
    let params = Nf4LinearSm90Params { linear, ..Default::default() };
    // Four codes are the two bytes of a bf16.
    let codes = TensorMap { address: linear.codes, shape: [outputs, inputs / 4], block: [OUTPUTS, kernel.depth / 4] };
    let x = TensorMap { address: linear.x, shape: [rows, inputs], block: [kernel.tokens, BLOCK] };
    let launch = kernel.launch("linear_sm90", double, tiles, splits, stage, params);
    Some(
        launch
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
