//! Which kernels run, and with which tiles.

use super::{AttentionParams, Heads, Sequences};
use crate::device::{DType, Launch, Tensor};
use crate::ops::Result;
use crate::ops::check::Check;

const THREADS: u32 = 128;
/// Sequences up to this length are short: a block of 64 rows reaches few keys before its own.
const SHORT: usize = 64;

pub fn params([q, k, v, o, lse]: [&Tensor; 5], sequences: &Sequences, heads: Heads) -> Result<AttentionParams> {
    let group = heads.group() as u32;
    let scale = 1.0 / (heads.dim as f32).sqrt();
    Ok(AttentionParams {
        q: q.address()?,
        k: k.address()?,
        v: v.address()?,
        o: o.address()?,
        lse: lse.address()?,
        positions: sequences.positions().address()?,
        ends: sequences.ends().address()?,
        tokens: q.rows() as u32,
        query_heads: heads.query as u32,
        key_value_heads: heads.key_value as u32,
        group,
        group_reciprocal: if group == 1 { 0 } else { (1u64 << 32).div_ceil(group.into()) as u32 },
        dim: heads.dim as u32,
        scale,
        scale_log2: scale * std::f32::consts::LOG2_E,
        ..Default::default()
    })
}

/// What a block of `attention_sm80.cu` or `attention_backward_sm80.cu` covers, of one key head.
pub struct Tile {
    kernel: &'static str,
    /// Queries, counted for each head of a group, or keys.
    rows: u32,
    shared_bytes: u32,
}

impl Tile {
    /// A block keeps `rows` of `kept` matrices, while those of two others pass, `step` at a time, `stages` at once.
    const fn new(kernel: &'static str, dim: u32, [kept, rows]: [u32; 2], [stages, step]: [u32; 2]) -> Tile {
        Tile { kernel, rows, shared_bytes: (kept * rows + 2 * stages * step) * dim * size_of::<u16>() as u32 }
    }
}

/// Tiles for heads of some number of features; pairs are for long and for short sequences.
struct Tiles {
    forward: [Tile; 2],
    queries: [Tile; 2],
    keys: Tile,
}

const TILES_128: Tiles = Tiles {
    forward: [
        Tile::new("attention_forward_128", 128, [1, 128], [1, 64]),
        Tile::new("attention_forward_short_128", 128, [1, 64], [1, 32]),
    ],
    queries: [
        Tile::new("attention_dq_128", 128, [2, 128], [2, 32]),
        Tile::new("attention_dq_short_128", 128, [2, 64], [2, 32]),
    ],
    keys: Tile::new("attention_dkv_128", 128, [2, 64], [2, 64]),
};
const TILES_64: Tiles = Tiles {
    forward: [
        Tile::new("attention_forward_64", 64, [1, 128], [1, 64]),
        Tile::new("attention_forward_short_64", 64, [1, 64], [1, 32]),
    ],
    queries: [
        Tile::new("attention_dq_64", 64, [2, 128], [2, 64]),
        Tile::new("attention_dq_short_64", 64, [2, 64], [2, 32]),
    ],
    keys: Tile::new("attention_dkv_64", 64, [2, 128], [2, 32]),
};

/// The kernels of one call.
pub enum Kernels {
    /// A block a tile, on tensor cores.
    Tiles { forward: &'static Tile, queries: &'static Tile, keys: &'static Tile },
    /// A warp for each head of each token: `attention.cu`.
    Warps { forward: &'static str, queries: &'static str, keys: &'static str },
}

impl Kernels {
    /// Tensor cores for bf16 heads of 64 and 128 features, as long as rows can be counted in 32 bits; else warps.
    pub fn choose(
        check: &Check,
        multiprocessors: u32,
        dtype: DType,
        sequences: &Sequences,
        heads: Heads,
    ) -> Result<Kernels> {
        let rows = sequences.tokens() * heads.group();
        let countable = rows.saturating_mul(heads.group().max(heads.key_value)) <= u32::MAX as usize;
        let tiles = match heads.dim {
            64 => &TILES_64,
            128 => &TILES_128,
            dim => return Kernels::warps(check, dtype, dim),
        };
        if dtype != DType::Bf16 || !countable {
            return Kernels::warps(check, dtype, heads.dim);
        }
        // Large tiles, unless the sequences are short or the tiles too few to go round.
        let blocks = rows.div_ceil(tiles.forward[0].rows as usize) * heads.key_value;
        let short = usize::from(sequences.max_length() <= SHORT || blocks < multiprocessors as usize);
        let Tiles { forward, queries, keys } = tiles;
        Ok(Kernels::Tiles { forward: &forward[short], queries: &queries[short], keys })
    }

    fn warps(check: &Check, dtype: DType, dim: usize) -> Result<Kernels> {
        macro_rules! kernels {
            ($dtype:literal, $dim:literal) => {
                Kernels::Warps {
                    forward: concat!("attention_forward_", $dtype, "_", $dim),
                    queries: concat!("attention_dq_", $dtype, "_", $dim),
                    keys: concat!("attention_dkv_", $dtype, "_", $dim),
                }
            };
        }
        Ok(match (dtype, dim) {
            (DType::Bf16, 0..=32) => kernels!("bf16", "32"),
            (DType::Bf16, 33..=64) => kernels!("bf16", "64"),
            (DType::Bf16, 65..=128) => kernels!("bf16", "128"),
            (DType::Bf16, 129..=256) => kernels!("bf16", "256"),
            (_, 0..=32) => kernels!("f32", "32"),
            (_, 33..=64) => kernels!("f32", "64"),
            (_, 65..=128) => kernels!("f32", "128"),
            (_, 129..=256) => kernels!("f32", "256"),
            (_, dim) => return check.no_kernel(format!("heads of {dim} features, more than 256")),
        })
    }

    /// `o` and `lse`.
    pub fn forward(&self, params: AttentionParams) -> Launch {
        match self {
            Kernels::Tiles { forward, .. } => tiles("attention_sm80", forward, params.tokens * params.group, params),
            Kernels::Warps { forward, .. } => warps(forward, params.query_heads, params),
        }
    }

    /// `dq` and `delta`.
    pub fn queries(&self, params: AttentionParams) -> Launch {
        match self {
            Kernels::Tiles { queries, .. } => {
                tiles("attention_backward_sm80", queries, params.tokens * params.group, params)
            }
            Kernels::Warps { queries, .. } => warps(queries, params.query_heads, params),
        }
    }

    /// `dk` and `dv`.
    pub fn keys(&self, params: AttentionParams) -> Launch {
        match self {
            Kernels::Tiles { keys, .. } => tiles("attention_backward_sm80", keys, params.tokens, params),
            Kernels::Warps { keys, .. } => warps(keys, params.key_value_heads, params),
        }
    }
}

fn tiles(module: &'static str, tile: &Tile, rows: u32, params: AttentionParams) -> Launch {
    let blocks = rows.div_ceil(tile.rows) * params.key_value_heads;
    Launch::new(module, tile.kernel, [blocks, 1, 1], THREADS, params).shared(tile.shared_bytes)
}

fn warps(kernel: &'static str, heads: u32, params: AttentionParams) -> Launch {
    let warps = u64::from(params.tokens) * u64::from(heads);
    let blocks = warps.div_ceil(u64::from(THREADS / 32)) as u32;
    Launch::new("attention", kernel, [blocks, 1, 1], THREADS, params)
}
