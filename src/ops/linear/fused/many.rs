//! Launches of `linear_gemm_sm90.cu`: many tokens, on Hopper.

use super::sm90::{BELOW_TABLE, LAYERS, MAP_SIZE, TABLE_BYTES};
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
    /// Of its kernel for several layers of one x, of plain scales.
    together: Option<&'static str>,
}

const MANY: [Many; 3] = [
    Many {
        tokens: 256,
        step: 0.72,
        names: names!("linear_gemm_sm90", 256),
        together: Some("linear_gemm_sm90_nf4_256_together"),
    },
    Many {
        tokens: 192,
        step: 0.60,
        names: names!("linear_gemm_sm90", 192),
        together: Some("linear_gemm_sm90_nf4_192_together"),
    },
    Many { tokens: 128, step: 0.45, names: names!("linear_gemm_sm90", 128), together: None },
];
const MANY_THREADS: u32 = 384;
/// Stages above the table, with the codes of one.
const MANY_STAGES_ABOVE: usize = 3;

impl Many {
    fn tiles(&self, rows: usize, outputs: &[usize]) -> usize {
        outputs.iter().map(|n| n.div_ceil(ROWS)).sum::<usize>() * rows.div_ceil(self.tokens)
    }

    /// Microseconds of the products of some rows with layers of so many outputs, by a model like that of [`tiles`].
    fn time(&self, multiprocessors: usize, rows: usize, outputs: &[usize], inputs: usize) -> f64 {
        const START: f64 = 6.0;
        const TILE: f64 = 2.0;
        let waves = self.tiles(rows, outputs).div_ceil(multiprocessors);
        START + waves as f64 * (inputs.div_ceil(BLOCK) as f64 * self.step + TILE)
    }

    pub fn launch(&self, multiprocessors: usize, double: bool, linear: Nf4LinearParams) -> Launch {
        self.launch_of(multiprocessors, self.names.of(double), &[linear])
    }

    fn launch_of(&self, multiprocessors: usize, kernel: &'static str, layers: &[Nf4LinearParams]) -> Launch {
        let [rows, inputs] = [layers[0].m, layers[0].k].map(|x| x as usize);
        let outputs: Vec<usize> = layers.iter().map(|layer| layer.n as usize).collect();
        let blocks = self.tiles(rows, &outputs).min(multiprocessors);
        let map = |address, shape, block| TensorMap { address, shape, block };
        let shared =
            BELOW_TABLE + TABLE_BYTES + MANY_STAGES_ABOVE * self.tokens * BLOCK * DType::Bf16.size() + ROWS * BLOCK / 2;
        let mut params = Nf4GemmSm90Params::default();
        params.layers[..layers.len()].copy_from_slice(layers);
        let launch = Launch::new("linear_gemm_sm90", kernel, [blocks as u32, 1, 1], MANY_THREADS, params)
            .shared(shared as u32)
            .tensor_map(offset_of!(Nf4GemmSm90Params, x), map(layers[0].x, [rows, inputs], [self.tokens, BLOCK]));
        layers.iter().zip(outputs).enumerate().fold(launch, |launch, (i, (layer, outputs))| {
            let codes = map(layer.codes, [outputs, inputs / 4], [ROWS, BLOCK / 4]);
            launch
                .tensor_map(offset_of!(Nf4GemmSm90Params, codes) + i * MAP_SIZE, codes)
                .tensor_map(offset_of!(Nf4GemmSm90Params, y) + i * MAP_SIZE, map(layer.y, [rows, outputs], [64, 64]))
        })
    }
}

/// The kernel for many tokens that takes less time, by `margin` microseconds, than dequantising the weight and the product
/// with it.
pub fn choose(gpu: &Gpu, sizes: [usize; 3], margin: f64) -> Option<&'static Many> {
    let multiprocessors = gpu.multiprocessors() as usize;
    let (many, time) = quickest(gpu, sizes)?;
    (time + margin < apart(multiprocessors, sizes)).then_some(many)
}

/// The quickest kernel for a layer, and its microseconds.
fn quickest(gpu: &Gpu, [rows, outputs, inputs]: [usize; 3]) -> Option<(&'static Many, f64)> {
    if !takes(gpu, outputs, inputs) {
        return None;
    }
    let time = |many: &Many| many.time(gpu.multiprocessors() as usize, rows, &[outputs], inputs);
    MANY.iter().map(|many| (many, time(many))).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Whether the kernels take a layer.
fn takes(gpu: &Gpu, outputs: usize, inputs: usize) -> bool {
    gpu.capability() == HOPPER && outputs.is_multiple_of(8) && inputs.is_multiple_of(2 * BLOCK)
}

/// Microseconds of dequantising a weight and the product with it, of so many rows, outputs and inputs.
pub fn apart(multiprocessors: usize, sizes @ [_, outputs, inputs]: [usize; 3]) -> f64 {
    dequantized(outputs * inputs) + tiles::time(multiprocessors, sizes)
}

/// The launch of several layers of one x and plain scales, where it takes less time than each by itself.
pub fn together(gpu: &Gpu, layers: &[Nf4LinearParams]) -> Option<Launch> {
    /// What the model may be wrong by.
    const SURE: f64 = 0.98;
    let multiprocessors = gpu.multiprocessors() as usize;
    let [rows, inputs] = [layers[0].m, layers[0].k].map(|x| x as usize);
    let outputs: Vec<usize> = layers.iter().map(|layer| layer.n as usize).collect();
    if layers.len() > LAYERS || !outputs.iter().all(|&n| takes(gpu, n, inputs)) {
        return None;
    }
    let kernels = MANY.iter().filter_map(|many| Some((many, many.together?)));
    let timed = kernels.map(|(many, kernel)| (many, kernel, many.time(multiprocessors, rows, &outputs, inputs)));
    let (many, kernel, time) = timed.min_by(|a, b| a.2.total_cmp(&b.2))?;
    let alone = |&outputs: &usize| {
        let sizes = [rows, outputs, inputs];
        let fused = quickest(gpu, sizes).map_or(f64::INFINITY, |(_, time)| time);
        fused.min(apart(multiprocessors, sizes))
    };
    (time < SURE * outputs.iter().map(alone).sum::<f64>()).then(|| many.launch_of(multiprocessors, kernel, layers))
}

/// Microseconds that dequantising so many values takes.
fn dequantized(values: usize) -> f64 {
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
