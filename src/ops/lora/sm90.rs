//! The launches of `lora_sm90.cu`: a layer and its adapter, s included, in one.

use super::Factors;
use super::sm80::{splits, width};
use crate::device::{DType, Gpu, Launch, Tensor, TensorMap};
use crate::ops::Result;
use crate::ops::gemm::Layout;
use crate::ops::gemm::sm90::{DIRECT_STORES, More, launch, with_more};
use crate::ops::gemm::tiles::{DEPTH, SHARES, Schedule, Tile, choose_of};
use crate::ops::params::{GemmSm90Params, LoraSideParams, LoraSidesParams, LoraSm90Params};
use std::mem::offset_of;

const THREADS: usize = 256;
/// Elements of the first factor a thread.
const EIGHT: usize = 8;
/// Rows of a tile, whose s has a counter.
const ROWS: usize = 128;
/// Places for ranks that kernels have: of a split factor, and of one that is rounded.
const RANKS: [usize; 2] = [32, 64];
/// Rows of either, which the two blocks of a cluster load a half of each.
const FACTOR_ROWS: usize = 64;
/// Microseconds of a step of k of a tile of s.
const STEP: f64 = 0.33;

/// How one launch shares the work.
pub struct Adapted {
    tile: &'static Tile,
    kernel: &'static str,
    sizes: [usize; 3],
    /// Ranks that the kernel has places for.
    ranks: usize,
    clusters: usize,
    /// Clusters that make s first.
    takers: usize,
}

impl Adapted {
    /// For `[tokens, out, in]`, or None: where dropout stands between x and s, or where too few clusters would be without a
    /// tile in the last round to make s in the time of one tile.
    pub fn choose(multiprocessors: usize, sizes: [usize; 3], factors: &Factors) -> Option<Adapted> {
        let ([m, n, k], rank) = (sizes, factors.a.rows());
        let ranks = RANKS.into_iter().find(|&ranks| rank <= ranks)?;
        // Its kernels have no tile of 224 columns.
        let (tile, _) = choose_of(multiprocessors, [m, n, k + width(rank)], |tile| tile.name != "224");
        let dropout = factors.dropout.is_some_and(|dropout| dropout.probability > 0.0);
        if dropout || tile.schedule != Schedule::Pairs || *DIRECT_STORES || m < ROWS {
            return None;
        }
        let kernel = match (tile.name, ranks) {
            ("256", 32) => "lora_sm90_256_32",
            ("256", 64) => "lora_sm90_256_64",
            ("192", 32) => "lora_sm90_192_32",
            ("192", 64) => "lora_sm90_192_64",
            ("128", 32) => "lora_sm90_128_32",
            ("128", 64) => "lora_sm90_128_64",
            _ => return None,
        };
        let [down, across] = tile.grid(m, n);
        let (pairs, tiles) = (down.div_ceil(SHARES), down.div_ceil(SHARES) * across);
        let clusters = (multiprocessors / SHARES).min(tiles + pairs);
        let last_round = tiles % clusters;
        if last_round == 0 {
            return None;
        }
        let takers = (clusters - last_round).min(pairs);
        // A little late is still less than a launch of its own.
        const LATE: f64 = 1.1;
        let in_time = pairs.div_ceil(takers) as f64 * STEP <= LATE * tile.step();
        in_time.then_some(Adapted { tile, kernel, sizes, ranks, clusters, takers })
    }

    /// Bytes of the workspace for the factor and the counters.
    pub fn scratch_bytes(tokens: usize, inputs: usize) -> usize {
        factor_bytes(inputs) + counters(tokens) * size_of::<u32>()
    }

    /// Launches it for x, the weight, s and y. `b` makes it the right side of `more`, whose left side the launch makes.
    pub fn launch(
        &self,
        gpu: &Gpu,
        [x, w, s, y]: [&Tensor; 4],
        factors: &Factors,
        b: LoraSideParams,
        more: &More,
        scratch: u64,
    ) -> Result {
        let [m, _, k] = self.sizes;
        let ready = scratch + factor_bytes(k) as u64;
        let tiles = counters(m);
        let sides = LoraSidesParams {
            a: factors.a.address()?,
            a_side: scratch,
            b,
            ready,
            tiles: tiles as u32,
            k: k as u32,
            ranks: self.ranks as u32,
            split: splits(b.rank as usize).into(),
        };
        let count = self.ranks * k / EIGHT + (b.rows * b.rank) as usize + tiles;
        let grid = [count.div_ceil(THREADS) as u32, 1, 1];
        gpu.launch(&Launch::new("lora_sm90", "lora_sides", grid, THREADS as u32, sides))?;

        let multiprocessors = gpu.multiprocessors() as usize;
        let gemm = launch(multiprocessors, Layout::Nt, self.sizes, (self.tile, 1), x, w, y, false)?;
        let mut launch = with_more(gemm, Layout::Nt, self.tile, self.sizes, more);
        let params = LoraSm90Params {
            s: s.address()?,
            left: more.a,
            ready,
            rank: b.rank,
            width: b.width,
            takers: self.takers as u32,
            scale: factors.scale,
            ..Default::default()
        };
        // The layer's own parameters come first.
        launch.params.extend_from_slice(&bytemuck::bytes_of(&params)[size_of::<GemmSm90Params>()..]);
        (launch.module, launch.kernel) = ("lora_sm90", self.kernel);
        launch.grid[0] = (self.clusters * SHARES) as u32;
        let map = TensorMap { address: scratch, shape: [FACTOR_ROWS, k], block: [FACTOR_ROWS / SHARES, DEPTH] };
        Ok(gpu.launch(&launch.tensor_map(offset_of!(LoraSm90Params, factor), map))?)
    }
}

fn factor_bytes(inputs: usize) -> usize {
    FACTOR_ROWS * inputs * DType::Bf16.size()
}

/// A counter a tile of 128 tokens, and one more where that makes them even.
fn counters(tokens: usize) -> usize {
    tokens.div_ceil(SHARES * ROWS) * SHARES
}
