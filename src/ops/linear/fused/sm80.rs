//! Launches of `linear.cu`: up to 32 tokens, by `mma.sync`.

use super::{BLOCK, MAP_BYTES, Names, names};
use crate::device::Launch;
use crate::ops::params::Nf4LinearParams;

const THREADS: u32 = 512;
/// Of the weight a block of threads, and a stage: rows, and inputs.
const ROWS: usize = 128;
const DEPTH: usize = 256;
/// The table of pairs of values.
const TABLE_BYTES: usize = 256 * 32 * 4;

/// A kernel for up to so many tokens.
struct Kernel {
    tokens: usize,
    /// As many as leave a block of an A100 its 163 KB; `linear.cu` knows them too.
    stages: usize,
    names: Names,
}

const KERNELS: [Kernel; 2] = [
    Kernel { tokens: 16, stages: 4, names: names!("linear", 16) },
    Kernel { tokens: 32, stages: 3, names: names!("linear", 32) },
];

impl Kernel {
    fn shared_bytes(&self, double: bool) -> usize {
        // Four absmax values a row, or their four codes and the absmax that they share.
        let scales = if double { ROWS * (4 + 4) } else { ROWS * DEPTH / BLOCK * 4 };
        TABLE_BYTES + MAP_BYTES + self.stages * (ROWS * DEPTH / 2 + self.tokens * DEPTH * 2 + scales)
    }
}

/// None for more tokens than a kernel takes.
pub fn forward(double: bool, params: Nf4LinearParams) -> Option<Launch> {
    let kernel = KERNELS.iter().find(|k| params.m as usize <= k.tokens)?;
    let grid = [(params.n as usize).div_ceil(ROWS) as u32, 1, 1];
    Some(
        Launch::new("linear", kernel.names.of(double), grid, THREADS, params)
            .shared(kernel.shared_bytes(double) as u32),
    )
}
