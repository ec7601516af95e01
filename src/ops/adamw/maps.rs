//! What the bytes of 8-bit moments mean: dynamic quantisation (Dettmers et al. 2021, arXiv 2110.02861), value for value
//! the maps of bitsandbytes' `create_dynamic_map`, and the tables by which a kernel finds the nearest value.
//!
//! Below 1 stand seven decades, each with values in the middle of equal cells, and with twice as many as the decade
//! below: small values are coarse, but not lost.

use crate::ops::params::{KIUNGO_ADAMW_FIRST_KEY, KIUNGO_ADAMW_KEYS};
use std::sync::LazyLock;

/// The byte of a first moment that is 0.
const ZERO: usize = 127;
/// Below all midpoints that a byte depends on.
const LEAST: f32 = f32::from_bits(KIUNGO_ADAMW_FIRST_KEY << 16);

/// A map, and the midpoints between its magnitudes.
struct Map {
    values: [f32; 256],
    midpoints: Vec<f32>,
}

static FIRST: LazyLock<Map> = LazyLock::new(|| {
    let magnitudes = magnitudes(1);
    let negative = magnitudes[1..magnitudes.len() - 1].iter().rev().map(|v| -v);
    let mut values = [0.0; 256];
    values.iter_mut().zip(negative.chain(magnitudes.iter().copied())).for_each(|(to, value)| *to = value);
    Map { values, midpoints: midpoints(&magnitudes) }
});

static SECOND: LazyLock<Map> = LazyLock::new(|| {
    let magnitudes = magnitudes(2);
    let mut values = [0.0; 256];
    values.copy_from_slice(&magnitudes);
    let mut midpoints = midpoints(&magnitudes);
    midpoints[0] = 0.0;
    Map { values, midpoints }
});

/// 0, the seven decades with `least`, `2 * least`, ... values, and 1. As torch's `linspace` in f32, which rounds
/// a product and a sum together.
fn magnitudes(least: usize) -> Vec<f32> {
    const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut magnitudes = vec![0.0];
    for (i, decade) in DECADES.into_iter().enumerate() {
        let cells = least << i;
        let width = (1.0 - 0.1f32) / cells as f32;
        let from = |start: f32, steps: f64| (f64::from(start) + f64::from(width) * steps) as f32;
        // The lower half counts from 0.1, the upper from 1.
        let bound =
            |k: usize| if k < cells.div_ceil(2) { from(0.1, k as f64) } else { from(1.0, -((cells - k) as f64)) };
        magnitudes.extend((0..cells).map(|k| decade * ((bound(k) + bound(k + 1)) / 2.0)));
    }
    magnitudes.push(1.0);
    magnitudes
}

fn midpoints(magnitudes: &[f32]) -> Vec<f32> {
    magnitudes.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

impl Map {
    /// The number of midpoints that are not above a magnitude.
    fn rank(&self, magnitude: f32) -> usize {
        let magnitude = magnitude.clamp(LEAST, 1.0);
        self.midpoints.partition_point(|&midpoint| midpoint <= magnitude)
    }

    /// [`Map::rank`], plus the code of 0, for kernels: an entry for each upper half of a magnitude's bits. The code of the
    /// least such magnitude stands in bits 16 to 23; added to the lower half of the bits of another one, the entry
    /// carries into them from the one midpoint on that lies there.
    fn entries(&self, zero: usize) -> Vec<u32> {
        let entry = |key: u32| {
            let rank = self.rank(f32::from_bits(key << 16));
            let midpoint = self.midpoints.get(rank).map(|midpoint| midpoint.to_bits()).filter(|bits| bits >> 16 == key);
            ((zero + rank) << 16) as u32 | midpoint.map_or(0, |bits| 0x1_0000 - (bits & 0xffff))
        };
        (0..KIUNGO_ADAMW_KEYS).map(|i| entry(KIUNGO_ADAMW_FIRST_KEY + i)).collect()
    }
}

/// The values of a first moment's bytes, from -0.993 to 1, ascending.
pub fn first() -> &'static [f32; 256] {
    &FIRST.values
}

/// The values of a second moment's bytes, from 0 to 1, ascending.
pub fn second() -> &'static [f32; 256] {
    &SECOND.values
}

/// The byte of the value nearest to `x`, a first moment over its block's absmax; of two the one farther from 0.
pub fn encode_first(x: f32) -> u8 {
    let rank = FIRST.rank(x.abs());
    (if x < 0.0 { ZERO - rank.min(ZERO) } else { ZERO + rank }) as u8
}

/// The byte of the value nearest to `x`, a second moment over its block's maximum; of two the larger. Never 0, by which
/// a later step would divide: at least the least value above it.
pub fn encode_second(x: f32) -> u8 {
    SECOND.rank(x) as u8
}

/// For kernels: what finds the byte of a positive first moment, and of a second moment. Added to the lower 16 bits of a
/// number, the entry of its upper 16 bits, counted from those of 2^-23, has the byte in bits 16 to 23.
pub fn entries() -> [Vec<u32>; 2] {
    [FIRST.entries(ZERO), SECOND.entries(0)]
}

/// All that the kernel reads: both maps, then both tables of entries.
pub(super) fn tables() -> Vec<u32> {
    let values = FIRST.values.iter().chain(&SECOND.values).map(|v| v.to_bits());
    values.chain(entries().into_iter().flatten()).collect()
}
