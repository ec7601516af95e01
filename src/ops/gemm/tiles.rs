//! The tiles of `gemm_sm90.cu`, and which one a product gets.
//!
//! A tile's time is modelled from a few constants, fitted to what every tile took on an H100 (132 multiprocessors,
//! 3.08 TB/s read) for Llama 3 8B's products with 1 to 16384 tokens; the tile of the least time is taken.

/// Of k a stage.
pub const DEPTH: usize = 64;
/// Bytes of an element.
const ELEMENT: usize = 2;
/// Blocks that share a tile of b, in the persistent kernels.
pub const SHARES: usize = 2;
/// Most parts of k, which are the blocks of a cluster; eight run on every card.
pub const MOST_SPLITS: usize = 8;

/// How the blocks of a kernel share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// One block a multiprocessor, which takes tile after tile; pairs of blocks share a tile of b.
    Pairs,
    /// The same without sharing.
    Single,
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
}

const fn tile(name: &'static str, schedule: Schedule, size: [usize; 2], stages: usize, step: f64, finish: f64) -> Tile {
    Tile { name, schedule, size, stages, step, finish }
}

/// All of them.
pub const TILES: [Tile; 11] = [
    tile("256", Schedule::Pairs, [128, 256], 4, 0.633, 2.23),
    tile("224", Schedule::Pairs, [128, 224], 4, 0.564, 1.83),
    tile("192", Schedule::Pairs, [128, 192], 4, 0.488, 1.60),
    tile("128", Schedule::Pairs, [128, 128], 6, 0.340, 0.99),
    tile("128x256", Schedule::Single, [128, 256], 4, 0.645, 2.26),
    tile("128x192", Schedule::Single, [128, 192], 4, 0.487, 1.95),
    tile("128x128", Schedule::Single, [128, 128], 6, 0.328, 1.49),
    tile("64x128", Schedule::Single, [64, 128], 8, 0.195, 0.95),
    tile("64x64", Schedule::Single, [64, 64], 12, 0.129, 0.62),
    tile("split_64x128", Schedule::SplitK, [64, 128], 8, 0.254, 0.12),
    tile("split_64x64", Schedule::SplitK, [64, 64], 8, 0.140, 0.50),
];

impl Tile {
    /// Threads a block: those that compute, 64 rows a warpgroup, and a warpgroup or a warp that loads.
    pub fn threads(&self) -> u32 {
        let loader = if self.schedule == Schedule::SplitK { 32 } else { 128 };
        (self.size[0] / 64 * 128 + loader) as u32
    }

    /// Blocks that share a tile of b.
    pub fn shares(&self) -> usize {
        if self.schedule == Schedule::Pairs { SHARES } else { 1 }
    }

    /// Columns of c that leave at a time through the copy engine.
    pub fn slab(&self) -> usize {
        if self.size[1].is_multiple_of(64) { 64 } else { 32 }
    }

    /// Microseconds of a step of [`DEPTH`].
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Dynamic shared memory, bytes: the ring, where rows of b that run along n come by 64; and the places of results
    /// that leave, two for each warpgroup, or of the sums of all parts.
    pub fn shared_bytes(&self) -> u32 {
        let [m, n] = self.size;
        let results = match self.schedule {
            Schedule::SplitK => m * n * size_of::<f32>(),
            _ => 2 * m * self.slab() * ELEMENT,
        };
        (self.stages * (m + n.next_multiple_of(64)) * DEPTH * ELEMENT + results) as u32
    }

    /// Tiles down and across c.
    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.size[0]), n.div_ceil(self.size[1])]
    }

    /// The numbers of parts that it can take a product's k in.
    pub fn splits(&self, k: usize) -> Vec<usize> {
        match self.schedule {
            Schedule::SplitK => [2, 4, MOST_SPLITS].into_iter().filter(|&s| s <= k.div_ceil(DEPTH)).collect(),
            _ => vec![1],
        }
    }

    /// Microseconds of a product, by constants fitted to the products of docs/kernel-log.md and then by hand. Of those timed, the
    /// tile of the least modelled time is at worst 7 % slower than the fastest, k/v forward of 64 tokens, and half a percent on
    /// average.
    fn time(&self, multiprocessors: usize, [m, n, k]: [usize; 3], splits: usize) -> f64 {
        const START: f64 = 3.74;
        const START_PAIRS: f64 = 2.87;
        const ADD_PARTS: f64 = 0.65;
        const READ: f64 = 3.07e6;
        const WRITTEN: f64 = 2.4e6;
        // Parts of k are read at as many places at once.
        const READ_PARTS: f64 = 1.05;
        // What is computed and what is moved hide each other the less the more alike they are.
        const OVERLAP: f64 = 9.2;
        let shares = self.shares();
        let [down, across] = self.grid(m, n);
        let blocks = down.div_ceil(shares) * shares * across * splits;
        // Clusters of four and eight do not find a place on every multiprocessor: of 132, 120 had one.
        let places = if splits > 2 { multiprocessors * 10 / 11 } else { multiprocessors / shares * shares };
        let rounds = blocks.div_ceil(places);
        if self.schedule == Schedule::SplitK && rounds > 1 {
            return f64::INFINITY; // its blocks do not run ahead: far behind the others
        }
        let steps = k.div_ceil(DEPTH).div_ceil(splits);
        let computed = rounds as f64 * (steps as f64 * self.step + self.finish);
        let read = ((m + n) * k * ELEMENT) as f64 / READ * if splits > 1 { READ_PARTS } else { 1.0 };
        let moved = read + (m * n * ELEMENT) as f64 / WRITTEN;
        let both = (computed.powf(OVERLAP) + moved.powf(OVERLAP)).powf(1.0 / OVERLAP);
        let extra = match self.schedule {
            Schedule::Pairs => START_PAIRS,
            Schedule::SplitK => ADD_PARTS,
            Schedule::Single => 0.0,
        };
        START + both + extra
    }
}

/// The tile for a product and in how many parts of k.
pub fn choose(multiprocessors: usize, sizes: [usize; 3]) -> (&'static Tile, usize) {
    choose_among(multiprocessors, sizes, |_| true)
}

/// The same of some tiles, of which there is one for any product, and never of [`Schedule::Single`] with as many rows as
/// pairs have: for kernels that know pairs alone.
pub fn choose_of(multiprocessors: usize, sizes: [usize; 3], some: impl Fn(&Tile) -> bool) -> (&'static Tile, usize) {
    let tall = |tile: &Tile| tile.schedule == Schedule::Single && tile.size[0] == 128;
    choose_among(multiprocessors, sizes, |tile| some(tile) && !tall(tile))
}

fn choose_among(multiprocessors: usize, sizes: [usize; 3], some: impl Fn(&Tile) -> bool) -> (&'static Tile, usize) {
    let tiles = TILES.iter().filter(|tile| some(tile));
    let candidates = tiles.flat_map(|tile| tile.splits(sizes[2]).into_iter().map(move |s| (tile, s)));
    let time = |(tile, splits): &(&Tile, usize)| tile.time(multiprocessors, sizes, *splits);
    candidates.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or((&TILES[0], 1))
}

/// Microseconds that a product takes with that tile, by the model.
pub fn time(multiprocessors: usize, sizes: [usize; 3]) -> f64 {
    let (tile, splits) = choose(multiprocessors, sizes);
    tile.time(multiprocessors, sizes, splits)
}
