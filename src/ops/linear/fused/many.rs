//! Launches of `linear_gemm_sm90.cu`: many tokens, on Hopper.

use super::sm90::{BELOW_TABLE, TABLE_BYTES};
use super::{BLOCK, Names, names};
use crate::device::{DType, Gpu, Launch, TensorMap};
use crate::ops::gemm::{cuda::HOPPER, tiles};
use crate::ops::nf4::Nf4Tensor;
use crate::ops::params::{Nf4GemmSm90Params, Nf4LinearParams};
use std::mem::offset_of;

/// Outputs of a tile.
const ROWS: usize = 128;

/// A kernel of `linear_gemm_sm90.cu`.
pub struct Many {
    /// Of a tile.
    tokens: usize,
    /// Microseconds of a step of 64 inputs, on an H100.
    step: f64,
    names: Names,
}

const MANY: [Many; 3] = [
    Many { tokens: 256, step: 0.72, names: names!("linear_gemm_sm90", 256) },
    Many { tokens: 192, step: 0.60, names: names!("linear_gemm_sm90", 192) },
    Many { tokens: 128, step: 0.45, names: names!("linear_gemm_sm90", 128) },
];
const MANY_THREADS: u32 = 384;
/// Stages above the table, with the codes of one.
const MANY_STAGES_ABOVE: usize = 3;

impl Many {
    fn tiles(&self, rows: usize, outputs: usize) -> usize {
        outputs.div_ceil(ROWS) * rows.div_ceil(self.tokens)
    }

    /// Microseconds of a product, by a model like that of [`tiles`].
    fn time(&self, multiprocessors: usize, [rows, outputs, inputs]: [usize; 3]) -> f64 {
        const START: f64 = 6.0;
        const TILE: f64 = 2.0;
        let waves = self.tiles(rows, outputs).div_ceil(multiprocessors);
        START + waves as f64 * (inputs.div_ceil(BLOCK) as f64 * self.step + TILE)
    }

    pub fn launch(&self, multiprocessors: usize, double: bool, linear: Nf4LinearParams) -> Launch {
        let Nf4LinearParams { x, codes, y, m, n, k, .. } = linear;
        let [rows, outputs, inputs] = [m, n, k].map(|x| x as usize);
        let blocks = self.tiles(rows, outputs).min(multiprocessors);
        let map = |address, shape, block| TensorMap { address, shape, block };
        let shared =
            BELOW_TABLE + TABLE_BYTES + MANY_STAGES_ABOVE * self.tokens * BLOCK * DType::Bf16.size() + ROWS * BLOCK / 2;
        let params = Nf4GemmSm90Params { linear, ..Default::default() };
        Launch::new("linear_gemm_sm90", self.names.of(double), [blocks as u32, 1, 1], MANY_THREADS, params)
            .shared(shared as u32)
            .tensor_map(offset_of!(Nf4GemmSm90Params, codes), map(codes, [outputs, inputs / 4], [ROWS, BLOCK / 4]))
            .tensor_map(offset_of!(Nf4GemmSm90Params, x), map(x, [rows, inputs], [self.tokens, BLOCK]))
            .tensor_map(offset_of!(Nf4GemmSm90Params, y), map(y, [rows, outputs], [64, 64]))
    }
}

/// The kernel for many tokens that takes less time, by `margin` microseconds, than dequantising the weight and the product
/// with it.
pub fn choose(gpu: &Gpu, sizes: [usize; 3], margin: f64) -> Option<&'static Many> {
    let [_, outputs, inputs] = sizes;
    if gpu.capability() != HOPPER || !outputs.is_multiple_of(8) || !inputs.is_multiple_of(2 * BLOCK) {
        return None;
    }
    let multiprocessors = gpu.multiprocessors() as usize;
    let (many, time) =
        MANY.iter().map(|many| (many, many.time(multiprocessors, sizes))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    (time + margin < dequantized(outputs * inputs) + tiles::time(multiprocessors, sizes)).then_some(many)
}

/// Microseconds that dequantising so many values takes.
pub fn dequantized(values: usize) -> f64 {
    const START: f64 = 5.0;
    const BYTES: f64 = 2.8e6;
    // Half a byte and a sixteenth of an absmax read, two bytes written.
    START + values as f64 * (0.5 + 4.0 / 64.0 + 2.0) / BYTES
}

/// True where [`super::forward`] is faster than dequantising the weight and the product with it by so many microseconds at least,
/// for more tokens than a GPU takes few of.
pub fn wins_by(gpu: &Gpu, tokens: usize, weight: &Nf4Tensor, margin: f64) -> bool {
    let [outputs, inputs] = weight.shape;
    let double = super::is_double(weight);
    super::fits(inputs, double) && choose(gpu, [tokens, outputs, inputs], margin).is_some()
}
