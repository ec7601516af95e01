//! Launches of `gemm_sm90.cu`.

use super::Layout;
use super::tiles::{DEPTH, Schedule, Tile, choose};
use crate::device::{DType, Launch, Tensor, TensorMap};
use crate::ops::Result;
use crate::ops::params::GemmSm90Params;
use std::mem::offset_of;
use std::sync::LazyLock;

/// Rows of m or n that a line of 128 bytes holds where rows in memory do not run along k.
const SLAB: usize = 64;

/// Up to so many rows a product of fewer blocks than multiprocessors is launched [alone](Launch::alone).
const FEW_ROWS: usize = 128;

/// compute-sanitizer's initcheck does not see what the copy engine writes. Where this is set, threads store all results.
pub static DIRECT_STORES: LazyLock<bool> = LazyLock::new(|| std::env::var_os("KIUNGO_DIRECT_STORES").is_some());

/// The launch for a product of bf16 with at least one element and one step of k.
pub fn gemm(
    multiprocessors: usize,
    layout: Layout,
    sizes: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    accumulate: bool,
) -> Result<Launch> {
    let (tile, splits) = choose(multiprocessors, sizes);
    launch(multiprocessors, layout, sizes, (tile, splits), a, b, c, accumulate)
}

/// Another product to be added, of the same layout: `a[m, k]` and b, bf16, where they lie.
pub struct More {
    pub a: u64,
    pub b: u64,
    /// A multiple of 8.
    pub k: usize,
}

/// Whether [`gemm_and_more`] takes another product, of so many columns of k.
pub fn takes_more(multiprocessors: usize, [m, n, k]: [usize; 3], more: usize) -> bool {
    choose(multiprocessors, [m, n, k + more]).0.schedule != Schedule::SplitK
}

/// The launch of `c = a b + more`, Nt or Nn, or None where the tile for it takes one product alone.
pub fn gemm_and_more(
    multiprocessors: usize,
    layout: Layout,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    more: &More,
) -> Result<Option<Launch>> {
    let (tile, splits) = choose(multiprocessors, [m, n, k + more.k]);
    if tile.schedule == Schedule::SplitK {
        return Ok(None);
    }
    let launch = launch(multiprocessors, layout, [m, n, k], (tile, splits), a, b, c, false)?;
    Ok(Some(with_more(launch, layout, tile, [m, n, k], more)))
}

/// A launch of a persistent tile with another product to be added.
pub fn with_more(mut launch: Launch, layout: Layout, tile: &Tile, [m, n, _]: [usize; 3], more: &More) -> Launch {
    let at = offset_of!(GemmSm90Params, more);
    launch.params[at..at + 4].copy_from_slice(&(more.k.div_ceil(DEPTH) as u32).to_ne_bytes());
    let a_rows = tile.size[0].min(m.next_multiple_of(8));
    let a = TensorMap { address: more.a, shape: [m, more.k], block: [a_rows, DEPTH] };
    let (shape, block) = match layout {
        Layout::Nt => ([n, more.k], [tile.size[1] / tile.shares(), DEPTH]),
        _ => ([more.k, n], [DEPTH / tile.shares(), SLAB]),
    };
    let b = TensorMap { address: more.b, shape, block };
    launch.tensor_map(offset_of!(GemmSm90Params, more_a), a).tensor_map(offset_of!(GemmSm90Params, more_b), b)
}

/// The launch with this tile and so many parts of k.
#[expect(clippy::too_many_arguments, reason = "a product and how it is computed")]
pub fn launch(
    multiprocessors: usize,
    layout: Layout,
    [m, n, k]: [usize; 3],
    (tile, splits): (&Tile, usize),
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    accumulate: bool,
) -> Result<Launch> {
    let (persistent, shares) = (tile.schedule != Schedule::SplitK, tile.shares());
    let bf16 = c.dtype() == DType::Bf16;
    // The copy engine stores rows of multiples of 16 bytes, and cannot round a sum once.
    let staged = persistent && bf16 && !accumulate && n.is_multiple_of(8) && !*DIRECT_STORES;
    // Rows of a beyond the matrix need not be loaded: they only make rows of c that are not stored.
    let a_rows = if layout == Layout::Tn { tile.size[0] } else { tile.size[0].min(m.next_multiple_of(8)) };
    let params = GemmSm90Params {
        c: c.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        accumulate: accumulate.into(),
        staged: staged.into(),
        splits: splits as u32,
        a_bytes: (a_rows * DEPTH * DType::Bf16.size()) as u32,
        ..Default::default()
    };
    let [down, across] = tile.grid(m, n);
    let (blocks, cluster) = if persistent {
        ((multiprocessors / shares).min(down.div_ceil(shares) * across) * shares, shares)
    } else {
        (down * across * splits, splits)
    };
    let map = |t: &Tensor, block| {
        Ok::<_, crate::ops::OpError>(TensorMap { address: t.address()?, shape: [t.rows(), t.columns()], block })
    };
    // Boxes as `OperandTile::load` asks for them.
    let a_block = if layout == Layout::Tn { [DEPTH, SLAB] } else { [a_rows, DEPTH] };
    let b_block = if layout == Layout::Nt { [tile.size[1] / shares, DEPTH] } else { [DEPTH / shares, SLAB] };
    let mut launch =
        Launch::new("gemm_sm90", kernel(layout, bf16, tile.name), [blocks as u32, 1, 1], tile.threads(), params)
            .shared(tile.shared_bytes())
            .cluster(cluster as u32)
            .tensor_map(offset_of!(GemmSm90Params, a), map(a, a_block)?)
            .tensor_map(offset_of!(GemmSm90Params, b), map(b, b_block)?);
    if m <= FEW_ROWS && blocks < multiprocessors {
        launch = launch.alone();
    }
    if staged {
        launch = launch.tensor_map(offset_of!(GemmSm90Params, c_map), map(c, [64, tile.slab()])?);
    }
    Ok(launch)
}

/// `gemm_sm90_<layout>_<type of c>_<tile>`.
fn kernel(layout: Layout, bf16: bool, tile: &str) -> &'static str {
    macro_rules! names {
        ($($tile:literal),*) => {
            match (layout, bf16, tile) {
                $(
                    (Layout::Nt, true, $tile) => concat!("gemm_sm90_nt_bf16_", $tile),
                    (Layout::Nn, true, $tile) => concat!("gemm_sm90_nn_bf16_", $tile),
                    (Layout::Tn, true, $tile) => concat!("gemm_sm90_tn_bf16_", $tile),
                    (Layout::Nt, false, $tile) => concat!("gemm_sm90_nt_f32_", $tile),
                    (Layout::Nn, false, $tile) => concat!("gemm_sm90_nn_f32_", $tile),
                    (Layout::Tn, false, $tile) => concat!("gemm_sm90_tn_f32_", $tile),
                )*
                _ => unreachable!("tiles.rs names no other tile"),
            }
        };
    }
    names!(
        "256",
        "224",
        "192",
        "128",
        "128x256",
        "128x192",
        "128x128",
        "64x128",
        "64x64",
        "split_64x128",
        "split_64x64"
    )
}
