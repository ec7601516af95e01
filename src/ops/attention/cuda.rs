//! Which kernels run, and with which tiles.

use super::hopper::{HOPPER_64, HOPPER_128, Hopper};
use super::{AttentionParams, Heads, Sequences};
use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::check::Check;

const THREADS: u32 = 128;
/// Sequences up to this length are short: a block of 64 rows reaches few keys before its own.
const SHORT: usize = 64;
const BF16_BYTES: u32 = 2;

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

/// What a block on tensor cores covers, of one key head.
pub struct Tile {
    module: &'static str,
    kernel: &'static str,
    /// Queries, counted for each head of a group, or keys.
    rows: u32,
    shared_bytes: u32,
}

impl Tile {
    /// A block keeps `rows` of `kept` matrices, while those of two others pass, `step` at a time, `stages` at once.
    const fn new(
        [module, kernel]: [&'static str; 2],
        dim: u32,
        [kept, rows]: [u32; 2],
        [stages, step]: [u32; 2],
    ) -> Tile {
        Tile { module, kernel, rows, shared_bytes: (kept * rows + 2 * stages * step) * dim * BF16_BYTES }
    }
}

/// What a block of `attention_short_sm80.cu` covers: whole sequences of one key head, 16 keys a warp.
pub struct Whole {
    kernel: &'static str,
    warps: u32,
    shared_bytes: u32,
}

impl Whole {
    const KEYS_A_WARP: u32 = 16;

    /// Keys and values; three stages of 16 rows of q, d_o and o with two words each; the gradients of the scores.
    const fn new(kernel: &'static str, dim: u32, warps: u32) -> Whole {
        const ROWS: u32 = 16;
        let keys = warps * Self::KEYS_A_WARP;
        let stage = 3 * ROWS * dim * BF16_BYTES + 2 * ROWS * size_of::<u32>() as u32;
        Whole { kernel, warps, shared_bytes: (2 * keys * dim + keys * ROWS) * BF16_BYTES + 3 * stage }
    }

    /// Tokens of a block, if there are many, and the longest sequence that fits.
    fn keys(&self) -> u32 {
        self.warps * Self::KEYS_A_WARP
    }

    /// Where tokens are few, fewer a block, so that all multiprocessors have one: a block takes one sequence after the other.
    fn launch(&self, multiprocessors: u32, params: AttentionParams) -> Launch {
        let tiles = params.tokens.div_ceil(self.keys()).max(multiprocessors / params.key_value_heads);
        let blocks = tiles.min(params.tokens) * params.key_value_heads;
        Launch::new("attention_short_sm80", self.kernel, [blocks, 1, 1], self.warps * 32, params)
            .shared(self.shared_bytes)
    }
}

/// Tiles for heads of some number of features.
struct Tiles {
    /// For long and for short sequences.
    forward: [Tile; 2],
    /// For long sequences on Hopper.
    hopper: Hopper,
    /// The gradients of the queries, for long and for short sequences.
    queries: [Tile; 2],
    /// The gradients of the keys and values.
    keys: Tile,
    /// All gradients of whole sequences, from the shortest to the longest.
    whole: [Whole; 2],
}

macro_rules! tiles {
    ($dim:literal, $hopper:expr, queries $queries:expr, keys $keys:expr) => {{
        const FORWARD: &str = "attention_sm80";
        const BACKWARD: &str = "attention_backward_sm80";
        Tiles {
            forward: [
                Tile::new([FORWARD, concat!("attention_forward_", $dim)], $dim, [1, 128], [1, 64]),
                Tile::new([FORWARD, concat!("attention_forward_short_", $dim)], $dim, [1, 64], [1, 32]),
            ],
            hopper: $hopper,
            queries: [
                Tile::new([BACKWARD, concat!("attention_dq_", $dim)], $dim, [2, 128], $queries),
                Tile::new([BACKWARD, concat!("attention_dq_short_", $dim)], $dim, [2, 64], [2, 32]),
            ],
            keys: Tile::new([BACKWARD, concat!("attention_dkv_", $dim)], $dim, $keys[0], $keys[1]),
            whole: [
                Whole::new(concat!("attention_backward_16_", $dim), $dim, 1),
                Whole::new(concat!("attention_backward_32_", $dim), $dim, 2),
            ],
        }
    }};
}
const TILES_128: Tiles = tiles!(128, HOPPER_128, queries [2, 32], keys [[2, 64], [2, 64]]);
const TILES_64: Tiles = tiles!(64, HOPPER_64, queries [2, 64], keys [[2, 128], [2, 32]]);

/// The kernels of one call.
pub enum Kernels {
    /// A block a tile, on tensor cores.
    Tiles { forward: Forward, backward: Backward },
    /// A warp for each head of each token: `attention.cu`.
    Warps { forward: &'static str, queries: &'static str, keys: &'static str },
}

/// On which tensor cores.
pub enum Forward {
    Any(&'static Tile),
    Hopper(&'static Hopper),
}

impl Forward {
    /// Large tiles, unless the sequences are short or the tiles too few to go round.
    fn choose(tiles: &'static Tiles, short: bool, hopper: bool) -> Forward {
        match hopper {
            true => Forward::Hopper(&tiles.hopper),
            false => Forward::Any(&tiles.forward[usize::from(short)]),
        }
    }
}

/// How tensor cores compute the gradients.
pub enum Backward {
    /// Those of the queries, which leave delta, then those of the keys and values.
    Apart { queries: &'static Tile, keys: &'static Tile },
    /// All in one pass, a block for the sequences that begin at some tokens.
    Whole(&'static Whole),
    /// All in one pass, a block a tile of keys, which adds its part of dq to that of the blocks before it.
    Hopper(&'static Hopper),
}

impl Backward {
    /// Whole sequences, if the longest fits.
    fn choose(tiles: &'static Tiles, short: bool, hopper: bool, sequences: &Sequences) -> Backward {
        match tiles.whole.iter().find(|whole| whole.keys() as usize >= sequences.max_length()) {
            Some(whole) => Backward::Whole(whole),
            None if hopper => Backward::Hopper(&tiles.hopper),
            None => Backward::Apart { queries: &tiles.queries[usize::from(short)], keys: &tiles.keys },
        }
    }
}

impl Kernels {
    /// Tensor cores for bf16 heads of 64 and 128 features, as long as rows can be counted in 32 bits; else warps.
    pub fn choose(check: &Check, gpu: &Gpu, dtype: DType, sequences: &Sequences, heads: Heads) -> Result<Kernels> {
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
        let blocks = rows.div_ceil(tiles.forward[0].rows as usize) * heads.key_value;
        let short = sequences.max_length() <= SHORT || blocks < gpu.multiprocessors() as usize;
        let hopper = !short && Hopper::runs_on(gpu, sequences.tokens());
        let forward = Forward::choose(tiles, short, hopper);
        Ok(Kernels::Tiles { forward, backward: Backward::choose(tiles, short, hopper, sequences) })
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
    pub fn forward(&self, gpu: &Gpu, params: AttentionParams) -> Result<Launch> {
        Ok(match self {
            Kernels::Tiles { forward: Forward::Any(tile), .. } => {
                tiles(tile, params.tokens * params.group, tile.rows, params)
            }
            Kernels::Tiles { forward: Forward::Hopper(hopper), .. } => {
                let taken = gpu.workspace(Hopper::FORWARD_WORKSPACE)?;
                gpu.fill(taken, 0, Hopper::FORWARD_WORKSPACE)?;
                hopper.forward(params, gpu.multiprocessors(), taken)
            }
            Kernels::Warps { forward, .. } => warps(forward, params.query_heads, params),
        })
    }

    /// `dq`, `dk` and `dv`; `delta` on the way.
    pub fn backward(&self, gpu: &Gpu, params: AttentionParams) -> Result<Vec<Launch>> {
        Ok(match self {
            Kernels::Tiles { backward: Backward::Apart { queries, keys }, .. } => vec![
                tiles(queries, params.tokens * params.group, queries.rows, params),
                tiles(keys, params.tokens, keys.rows, params),
            ],
            Kernels::Tiles { backward: Backward::Whole(whole), .. } => {
                vec![whole.launch(gpu.multiprocessors(), params)]
            }
            Kernels::Tiles { backward: Backward::Hopper(hopper), .. } => {
                hopper.backward(params, gpu.workspace(hopper.backward_workspace(&params))?).into()
            }
            Kernels::Warps { queries, keys, .. } => {
                vec![warps(queries, params.query_heads, params), warps(keys, params.key_value_heads, params)]
            }
        })
    }
}

/// A block for each `step` of `count` queries or tokens, and each key head.
fn tiles(tile: &Tile, count: u32, step: u32, params: AttentionParams) -> Launch {
    let blocks = count.div_ceil(step) * params.key_value_heads;
    Launch::new(tile.module, tile.kernel, [blocks, 1, 1], THREADS, params).shared(tile.shared_bytes)
}

/// A warp for each token and head.
fn warps(kernel: &'static str, heads: u32, params: AttentionParams) -> Launch {
    let warps = u64::from(params.tokens) * u64::from(heads);
    let blocks = warps.div_ceil(u64::from(THREADS / 32)) as u32;
    Launch::new("attention", kernel, [blocks, 1, 1], THREADS, params)
}
