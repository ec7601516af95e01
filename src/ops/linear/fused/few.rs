//! Launches of `linear_few.cu`: up to eight tokens, on every card.

use super::sm90::{BELOW_TABLE, TABLE_BYTES};
use super::{BLOCK, MAP_BYTES};
use crate::device::Launch;
use crate::ops::params::Nf4LinearParams;

/// What the kernel knows too.
pub const TOKENS: usize = 8;
const WARPS: usize = 16;
const STAGES: usize = 2;
/// Rows of the weight that a block takes at once, and inputs of a warp.
const ROWS: usize = 16;
const SLICE: usize = 256;

/// None for more tokens than the kernel takes.
pub fn forward(double: bool, multiprocessors: usize, params: Nf4LinearParams) -> Option<Launch> {
    if params.m as usize > TOKENS {
        return None;
    }
    let name = if double { "linear_few_nf4_double" } else { "linear_few_nf4" };
    let blocks = (params.n as usize).div_ceil(ROWS).min(multiprocessors);
    let launch = Launch::new("linear_few", name, [blocks as u32, 1, 1], (WARPS * 32) as u32, params);
    Some(launch.shared(shared_bytes(double) as u32))
}

/// The map, two groups of sums, the stages that fit below the table, the table and the other stages. Enough, too, for
/// cards before Hopper, where 1 KB more is below the table.
fn shared_bytes(double: bool) -> usize {
    // Four absmax values a row, or their four codes and the absmax that they share.
    let scales = if double { ROWS * (4 + 4) } else { ROWS * SLICE / BLOCK * 4 };
    let stage = ROWS * SLICE / 2 + scales;
    // By warp and token, in lines longer than the rows.
    let sums = 2 * WARPS * TOKENS * (ROWS + 4) * 4;
    let below = (BELOW_TABLE - MAP_BYTES - sums) / stage;
    BELOW_TABLE + TABLE_BYTES + (STAGES * WARPS).saturating_sub(below) * stage
}
