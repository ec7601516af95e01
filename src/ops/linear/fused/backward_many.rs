//! Launches of `linear_gemm_backward_sm90.cu`: the gradient of the input of many tokens, on Hopper.

use super::many;
use super::sm90::{BELOW_TABLE, TABLE_BYTES, with_maps};
use super::{BLOCK, Names, names};
use crate::device::{Gpu, Launch};
use crate::ops::params::{Nf4BackwardParams, Nf4BackwardSm90Params, Nf4LinearParams};

/// A kernel and its tile.
pub struct Many {
    inputs: usize,
    tokens: usize,
    /// Blocks of a cluster, each of which takes a part of a tile's outputs.
    parts: usize,
    /// Microseconds of a step of [`DEPTH`] outputs, on an H100.
    step: f64,
    names: Names,
}

/// [`Many`], by the end of its names.
macro_rules! many {
    ($inputs:literal x $tokens:literal, $parts:literal, $step:literal, $name:literal) => {
        Many {
            inputs: $inputs,
            tokens: $tokens,
            parts: $parts,
            step: $step,
            names: names!("linear_gemm_backward_sm90", $name),
        }
    };
}

const MANY: [Many; 7] = [
    many!(128 x 256, 1, 0.72, "128x256"),
    many!(128 x 192, 1, 0.62, "128x192"),
    many!(256 x 192, 1, 1.11, "256x192"),
    many!(128 x 256, 2, 0.72, "128x256_parts"),
    many!(128 x 192, 2, 0.62, "128x192_parts"),
    many!(128 x 128, 2, 0.485, "128x128_parts"),
    many!(256 x 192, 2, 1.11, "256x192_parts"),
];
const THREADS: u32 = 384;
/// Outputs of a stage.
const DEPTH: usize = 64;
/// Inputs of which the copy engine brings the codes at once.
const COPIED: usize = 128;
/// Bytes above the table: stages of dy but the first, and results.
const ABOVE_TABLE: usize = 96 << 10;

fn steps(layer: &Nf4LinearParams) -> usize {
    (layer.n as usize).div_ceil(DEPTH)
}

impl Many {
    fn tiles(&self, first: &Nf4LinearParams) -> usize {
        (first.k as usize).div_ceil(self.inputs) * (first.m as usize).div_ceil(self.tokens)
    }

    /// Microseconds of a product, by a model like that of [`tiles`](crate::ops::gemm::tiles), fitted to Llama 3 8B's layers; infinite
    /// where there are parts without outputs, or too many blocks for one round: those with parts do not take several tiles.
    fn time(&self, multiprocessors: usize, layers: &[Nf4LinearParams]) -> f64 {
        const TILE: f64 = 6.0;
        const EXCHANGE: f64 = 3.0;
        let steps: usize = layers.iter().map(steps).sum();
        let blocks = self.tiles(&layers[0]) * self.parts;
        if self.parts > 1 && (steps < self.parts || blocks > multiprocessors) {
            return f64::INFINITY;
        }
        let rounds = blocks.div_ceil(multiprocessors) as f64;
        let exchange = if self.parts > 1 { EXCHANGE } else { 0.0 };
        rounds * (steps.div_ceil(self.parts) as f64 * self.step + TILE) + exchange
    }

    pub fn launch(
        &self,
        multiprocessors: usize,
        double: bool,
        backward: Nf4BackwardParams,
        layers: &[Nf4LinearParams],
    ) -> Launch {
        let mut params = Nf4BackwardSm90Params { backward, ..Default::default() };
        for (i, layer) in layers.iter().enumerate() {
            (params.layers[i], params.steps[i]) = (*layer, steps(layer) as u32);
        }
        let blocks = self.tiles(&layers[0]) * self.parts;
        let grid = [if self.parts > 1 { blocks } else { blocks.min(multiprocessors) } as u32, 1, 1];
        let launch = Launch::new("linear_gemm_backward_sm90", self.names.of(double), grid, THREADS, params)
            .shared((BELOW_TABLE + TABLE_BYTES + ABOVE_TABLE) as u32)
            .cluster(self.parts as u32);
        with_maps(launch, layers, [DEPTH, COPIED / 4], [self.tokens, BLOCK])
    }
}

/// The kernel for many tokens that takes less time than dequantising each weight and the products with them.
pub fn choose(gpu: &Gpu, layers: &[Nf4LinearParams]) -> Option<&'static Many> {
    let multiprocessors = gpu.multiprocessors() as usize;
    let (many, time) =
        MANY.iter().map(|many| (many, many.time(multiprocessors, layers))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    // Each product's outputs are the layer's inputs.
    let apart =
        layers.iter().map(|layer| many::apart(multiprocessors, [layer.m, layer.k, layer.n].map(|x| x as usize)));
    (time < apart.sum()).then_some(many)
}
