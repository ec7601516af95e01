//! Grids that several ops share.

use crate::device::Launch;
use bytemuck::Pod;

const THREADS: usize = 256;

/// A launch over `count` elements, of which each thread takes eight (`kernels/tile/vector.cuh`).
pub(super) fn eight_a_thread<P: Pod>(module: &'static str, kernel: &'static str, count: usize, params: P) -> Launch {
    Launch::new(module, kernel, [count.div_ceil(THREADS * 8) as u32, 1, 1], THREADS as u32, params)
}

/// Threads of a block that has `tasks` of them: whole warps, at most `most`, which is a multiple of 32.
pub(super) fn threads(tasks: usize, most: usize) -> u32 {
    tasks.clamp(1, most).next_multiple_of(32) as u32
}
