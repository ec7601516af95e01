//! The launches of Hopper's kernels: `attention_sm90.cu`, `attention_statistics_sm90.cu` and `attention_backward_sm90.cu`.

use super::Heads;
use crate::device::{DType, Gpu, Launch, TensorMap};
use crate::ops::params::{
    AttentionBackwardSm90Params, AttentionParams, AttentionSm90Params, KIUNGO_ATTENTION_KEYS, KIUNGO_ATTENTION_PASSING,
};
use std::mem::{offset_of, size_of};

/// The card that these kernels are for; their instructions are that card's alone.
const CAPABILITY: u32 = 90;
const BF16_BYTES: u32 = 2;
const FLOAT_BYTES: u32 = 4;
/// Of a warpgroup.
const THREADS: u32 = 128;
/// Of the kernel before the backward pass, each of which takes four times eight elements.
const STATISTICS_THREADS: u32 = 256;
const STATISTICS_ELEMENTS: u32 = 32;
/// What parts of the workspace begin at multiples of.
const ALIGNMENT: usize = 256;

/// Kernels for heads of some number of features.
pub struct Hopper {
    dim: u32,
    forward: &'static str,
    /// Warpgroups of 64 rows each that a block of the forward pass has, beside the one that loads.
    forward_warpgroups: u32,
    /// Tiles of keys and of values on their way at once.
    forward_stages: u32,
    /// Before the backward pass, and itself.
    backward: [&'static str; 2],
}

macro_rules! hopper {
    ($dim:literal, forward [$warpgroups:literal, $stages:literal]) => {
        Hopper {
            dim: $dim,
            forward: concat!("attention_forward_sm90_", $dim),
            forward_warpgroups: $warpgroups,
            forward_stages: $stages,
            backward: [concat!("attention_statistics_sm90_", $dim), concat!("attention_backward_sm90_", $dim)],
        }
    };
}
pub const HOPPER_128: Hopper = hopper!(128, forward [2, 2]);
pub const HOPPER_64: Hopper = hopper!(64, forward [3, 2]);

/// Where the backward pass has what in its workspace, in bytes.
struct Room {
    tiles: u32,
    statistics: usize,
    turns: usize,
    end: usize,
}

/// Bytes of the workspace for the backward pass: dq in f32, and two numbers for each row.
pub fn workspace(gpu: &Gpu, dtype: DType, tokens: usize, heads: Heads) -> usize {
    match (gpu.capability(), dtype, heads.dim) {
        (CAPABILITY, DType::Bf16, 64 | 128) => Room::new(tokens as u32, heads.query as u32, heads.dim as u32).end,
        _ => 0,
    }
}

impl Room {
    fn new(tokens: u32, heads: u32, dim: u32) -> Room {
        let queries = KIUNGO_ATTENTION_PASSING / dim;
        let tiles = tokens.div_ceil(queries);
        let all = heads as usize * tiles as usize;
        let statistics = all * (KIUNGO_ATTENTION_PASSING * FLOAT_BYTES) as usize;
        let turns = statistics + (all * (2 * queries * FLOAT_BYTES) as usize).next_multiple_of(ALIGNMENT);
        Room { tiles, statistics, turns, end: turns + (all + 1) * size_of::<u32>() }
    }
}

impl Hopper {
    /// Whether the kernels can run: the copy engine's boxes must fit in the matrices.
    pub fn runs_on(gpu: &Gpu, tokens: usize) -> bool {
        gpu.capability() == CAPABILITY && tokens >= KIUNGO_ATTENTION_KEYS as usize
    }

    /// Bytes of the workspace that [`Hopper::forward`] needs, zeroed.
    pub const FORWARD_WORKSPACE: usize = size_of::<u32>();

    /// As many blocks as there are multiprocessors, each of which takes tile after tile.
    /// `taken` is a number that is 0.
    pub fn forward(&self, attention: AttentionParams, multiprocessors: u32, taken: u64) -> Launch {
        let AttentionParams { tokens, group, key_value_heads, k, v, .. } = attention;
        let rows = self.forward_warpgroups * 64;
        let tiles = (tokens * group).div_ceil(rows) * key_value_heads;
        let threads = (self.forward_warpgroups + 1) * THREADS;
        // Queries and results, and a ring of keys and values.
        let shared = (2 * rows + 2 * self.forward_stages * KIUNGO_ATTENTION_KEYS) * self.dim * BF16_BYTES;
        let params = AttentionSm90Params { attention, taken, ..Default::default() };
        Launch::new("attention_sm90", self.forward, [tiles.min(multiprocessors), 1, 1], threads, params)
            .shared(shared)
            .tensor_map(offset_of!(AttentionSm90Params, k), self.map(k, tokens, key_value_heads, KIUNGO_ATTENTION_KEYS))
            .tensor_map(offset_of!(AttentionSm90Params, v), self.map(v, tokens, key_value_heads, 64))
    }

    /// Bytes of the workspace that [`Hopper::backward`] needs.
    pub fn backward_workspace(&self, attention: &AttentionParams) -> usize {
        Room::new(attention.tokens, attention.query_heads, self.dim).end
    }

    /// The statistics of all rows, then a block for each tile of keys.
    pub fn backward(&self, attention: AttentionParams, workspace: u64) -> [Launch; 2] {
        let AttentionParams { tokens, query_heads, key_value_heads, q, k, v, d_o, .. } = attention;
        let queries = KIUNGO_ATTENTION_PASSING / self.dim;
        let room = Room::new(tokens, query_heads, self.dim);
        let params = AttentionBackwardSm90Params {
            attention,
            sums: workspace,
            statistics: workspace + room.statistics as u64,
            turns: workspace + room.turns as u64,
            tiles: room.tiles,
            ..Default::default()
        };
        let [before, itself] = self.backward;
        let elements = room.tiles * queries * query_heads * self.dim;
        let blocks = tokens.div_ceil(KIUNGO_ATTENTION_KEYS) * key_value_heads;
        let passing = |address| self.map(address, tokens, query_heads, queries);
        let own = |address| self.map(address, tokens, key_value_heads, KIUNGO_ATTENTION_KEYS);
        [
            Launch::new(
                "attention_statistics_sm90",
                before,
                [elements.div_ceil(STATISTICS_THREADS * STATISTICS_ELEMENTS), 1, 1],
                STATISTICS_THREADS,
                params,
            ),
            Launch::new("attention_backward_sm90", itself, [blocks, 1, 1], BACKWARD_THREADS, params)
                .shared(self.backward_shared())
                .tensor_map(offset_of!(AttentionBackwardSm90Params, q), passing(q))
                .tensor_map(offset_of!(AttentionBackwardSm90Params, d_o), passing(d_o))
                .tensor_map(offset_of!(AttentionBackwardSm90Params, k), own(k))
                .tensor_map(offset_of!(AttentionBackwardSm90Params, v), own(v)),
        ]
    }

    /// Keys and values; two stages of q, d_o and ds, of dq, and of the statistics.
    fn backward_shared(&self) -> u32 {
        let queries = KIUNGO_ATTENTION_PASSING / self.dim;
        let own = 2 * KIUNGO_ATTENTION_KEYS * self.dim;
        let stages = 2 * (2 * KIUNGO_ATTENTION_PASSING + KIUNGO_ATTENTION_KEYS * queries);
        let floats = 2 * (KIUNGO_ATTENTION_PASSING + 2 * queries);
        (own + stages) * BF16_BYTES + floats * FLOAT_BYTES
    }

    /// Boxes of `rows` tokens of a matrix of all heads.
    fn map(&self, address: u64, tokens: u32, heads: u32, rows: u32) -> TensorMap {
        let shape = [tokens as usize, (heads * self.dim) as usize];
        TensorMap { address, shape, block: [rows as usize, 64] }
    }
}

/// Two warpgroups of keys, one of queries, and one that loads and adds up.
const BACKWARD_THREADS: u32 = 4 * THREADS;
