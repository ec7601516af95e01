//! The tiles of `gemm_sm90.cu`, and which one a product gets.
//!
//! A tile's time is modelled from a few constants, measured on an H100 (132 multiprocessors, 1.98 GHz, 3.08 TB/s read)
//! over Llama 3 8B's products with 1 to 8192 tokens; the tile of the least time is taken.

/// Of k a stage.
pub const DEPTH: usize = 64;
/// Bytes of an element.
const ELEMENT: usize = 2;
/// Blocks that share a tile of b, in the persistent kernels.
pub const SHARES: usize = 2;
/// Most parts of k, which are the blocks of a cluster; eight run on every card.
const MOST_SPLITS: usize = 8;
/// Places for the results that a persistent kernel is sending: two of 64x64 for each of two warpgroups.
const STAGING_BYTES: usize = 2 * 2 * 64 * 64 * ELEMENT;

/// How the blocks of a kernel share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// One block a multiprocessor, which takes tile after tile; pairs of blocks share a tile of b.
    Persistent,
    /// The blocks of a cluster share a tile, each with a part of k.
    SplitK,
}

/// A kernel's tile of c.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// The end of the kernels' names.
    pub name: &'static str,
    /// How its blocks share the work.
    pub schedule: Schedule,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Stages of the ring in shared memory.
    stages: usize,
    /// Microseconds of a step of [`DEPTH`], where nothing else limits it.
    step: f64,
    /// Microseconds that a tile takes beside its steps.
    finish: f64,
    /// Blocks a multiprocessor.
    blocks: usize,
}

const fn persistent(name: &'static str, columns: usize, stages: usize, step: f64, finish: f64) -> Tile {
    Tile { name, schedule: Schedule::Persistent, size: [128, columns], stages, step, finish, blocks: 1 }
}

const fn split(name: &'static str, size: [usize; 2], stages: usize, step: f64, blocks: usize) -> Tile {
    Tile { name, schedule: Schedule::SplitK, size, stages, step, finish: 0.0, blocks }
}

/// All of them.
pub const TILES: [Tile; 8] = [
    persistent("256", 256, 4, 0.666, 1.5),
    persistent("192", 192, 4, 0.499, 1.5),
    persistent("128", 128, 6, 0.362, 1.5),
    persistent("64", 64, 8, 0.257, 1.5),
    split("128x128", [128, 128], 3, 0.56, 2),
    split("128x64", [128, 64], 4, 0.31, 2),
    split("64x128", [64, 128], 4, 0.30, 2),
    split("64x64", [64, 64], 4, 0.24, 3),
];

impl Tile {
    /// Threads a block: those that compute, 64 rows a warpgroup, and a warpgroup or a warp that loads.
    pub fn threads(&self) -> u32 {
        let loader = if self.schedule == Schedule::Persistent { 128 } else { 32 };
        (self.size[0] / 64 * 128 + loader) as u32
    }

    /// Microseconds of a step of [`DEPTH`].
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Dynamic shared memory, bytes.
    pub fn shared_bytes(&self) -> u32 {
        let staging = if self.schedule == Schedule::Persistent { STAGING_BYTES } else { 0 };
        (self.stages * (self.size[0] + self.size[1]) * DEPTH * ELEMENT + staging) as u32
    }

    /// Tiles down and across c.
    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.size[0]), n.div_ceil(self.size[1])]
    }

    /// The numbers of parts that it can take a product's k in.
    pub fn splits(&self, k: usize) -> Vec<usize> {
        match self.schedule {
            Schedule::Persistent => vec![1],
            Schedule::SplitK => [1, 2, 4, MOST_SPLITS].into_iter().filter(|&s| s <= k.div_ceil(DEPTH)).collect(),
        }
    }

    /// Microseconds of a product. The constants are a fit to 600 measurements; over the 108 products they cover, the
    /// tile of the least modelled time takes 1 % longer than the fastest on average, 15 % at worst.
    fn time(&self, multiprocessors: usize, [m, n, k]: [usize; 3], splits: usize) -> f64 {
        const START: f64 = 5.77;
        let [down, across] = self.grid(m, n);
        let steps = k.div_ceil(DEPTH);
        let moved = ((m * k + n * k + m * n) * ELEMENT) as f64;
        match self.schedule {
            Schedule::Persistent => {
                const BYTES: f64 = 2.9e6;
                let waves = (down.div_ceil(SHARES) * across).div_ceil(multiprocessors / SHARES);
                let computed = waves as f64 * (steps as f64 * self.step + self.finish);
                START + computed.max(moved / BYTES)
            }
            Schedule::SplitK => {
                // Few blocks have too few bytes under way; blocks beside each other take from each other's time.
                const BYTES: f64 = 4.06e6;
                const LATENCY_BLOCKS: f64 = 27.9;
                const L2_BYTES: f64 = 8.12e6;
                const SHARE: f64 = 1.19;
                const FINISH: f64 = 1.67;
                const WAVE: f64 = 3.0;
                const ADD: f64 = 0.2;
                let blocks = down * across * splits;
                let at_once = multiprocessors * self.blocks;
                let [waves, beside] = [at_once, multiprocessors].map(|most| blocks.div_ceil(most));
                let rows = self.size[0].min(m);
                let from_memory = moved / BYTES * (1.0 + LATENCY_BLOCKS / blocks.min(at_once) as f64);
                let from_l2 = (down * across * steps * (rows + self.size[1]) * DEPTH * ELEMENT) as f64 / L2_BYTES;
                let turns = (waves as f64).max(SHARE * beside.min(self.blocks * waves) as f64);
                let computed = turns * steps.div_ceil(splits) as f64 * self.step + (waves - 1) as f64 * WAVE;
                let tile = (rows * self.size[1].min(n)) as f64 / 4096.0;
                let added = if splits > 1 { ADD * (splits * beside) as f64 * tile } else { 0.0 };
                START + FINISH + added + from_memory.max(from_l2).max(computed)
            }
        }
    }
}

/// The tile for a product and in how many parts of k.
pub fn choose(multiprocessors: usize, sizes: [usize; 3]) -> (&'static Tile, usize) {
    let candidates = TILES.iter().flat_map(|tile| tile.splits(sizes[2]).into_iter().map(move |s| (tile, s)));
    let time = |(tile, splits): &(&Tile, usize)| tile.time(multiprocessors, sizes, *splits);
    candidates.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or((&TILES[0], 1))
}

/// Microseconds that a product takes with that tile, by the model.
pub fn time(multiprocessors: usize, sizes: [usize; 3]) -> f64 {
    let (tile, splits) = choose(multiprocessors, sizes);
    tile.time(multiprocessors, sizes, splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was fastest on an H100, or within a few percent of it.
    #[test]
    fn llama_products_get_the_tiles_that_were_fastest() {
        let cases: &[([usize; 3], &[&str])] = &[
            ([4096, 4096, 4096], &["256"]),
            ([4096, 14336, 4096], &["256"]),
            ([2048, 4096, 14336], &["256"]),
            ([8192, 1024, 4096], &["256"]),
            ([768, 4096, 4096], &["192"]),
            ([512, 4096, 4096], &["128"]),
            ([512, 14336, 4096], &["256"]),
            ([4096, 4096, 64], &["256", "192", "128"]),
            ([14336, 4096, 128], &["256", "192", "128"]),
            ([512, 1024, 4096], &["128x64", "64x128", "64"]),
            ([64, 4096, 4096], &["64x64"]),
            ([1, 14336, 4096], &["64x64", "64x128"]),
            ([16, 1024, 4096], &["64x64"]),
            ([128, 14336, 4096], &["64x128", "128x128", "128x64", "256"]),
        ];
        for (sizes, fastest) in cases {
            let (tile, splits) = choose(132, *sizes);
            assert!(fastest.contains(&tile.name), "{sizes:?} gets {} in {splits} parts, not {fastest:?}", tile.name);
        }
    }

    #[test]
    fn every_part_of_k_has_a_step_and_shared_memory_suffices() {
        const MOST_SHARED: u32 = 227 << 10;
        for m in [1, 3, 65, 300, 5000] {
            for k in [1, 64, 65, 200, 4096] {
                let (tile, splits) = choose(132, [m, 576, k]);
                assert!(splits <= k.div_ceil(DEPTH) && splits <= MOST_SPLITS, "{m} x 576 x {k}: {tile:?} {splits}");
            }
        }
        for tile in TILES {
            // One KB for the barriers.
            assert!(tile.blocks as u32 * (tile.shared_bytes() + 1024) <= MOST_SHARED, "{tile:?}");
        }
    }
}
