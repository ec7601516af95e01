//! Launches of the gradient of the input: of few tokens by `linear_backward.cu` and, on Hopper, `linear_backward_sm90.cu`; of
//! many by [`backward_many`].
//!
//! Blocks take parts of the outputs, so many that every multiprocessor has one; their sums are added up by a second launch.

use super::sm90::{LAYERS, TABLE_BYTES, around_table, with_maps};
use super::{BLOCK, MAP_BYTES, Names, names};
use super::{backward_many, is_roomy};
use crate::device::{DType, Gpu, Launch};
use crate::ops::Result;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::params::{Nf4BackwardParams, Nf4BackwardSm90Params, Nf4LinearParams};

/// Of the weight a block.
const INPUTS: usize = 256;
/// Inputs of dx that a block of the sum's threads adds up.
const ADDED: usize = 4 * 128;

/// A kernel for up to so many tokens; it knows the rest too.
struct Kernel {
    tokens: usize,
    /// Of the weight a stage.
    outputs: usize,
    stages: usize,
    threads: u32,
    names: Names,
}

const KERNELS: [Kernel; 4] = [
    Kernel { tokens: 8, outputs: 64, stages: 4, threads: 256, names: names!("linear_backward", 8) },
    Kernel { tokens: 16, outputs: 64, stages: 4, threads: 256, names: names!("linear_backward", 16) },
    Kernel { tokens: 32, outputs: 64, stages: 3, threads: 256, names: names!("linear_backward", 32) },
    Kernel { tokens: 64, outputs: 64, stages: 4, threads: 256, names: names!("linear_backward", 64) },
];
/// For more tokens than `FEW`.
const ON_HOPPER: [Kernel; 4] = [
    Kernel { tokens: 64, outputs: 128, stages: 3, threads: 384, names: names!("linear_backward_sm90", 64) },
    Kernel { tokens: 80, outputs: 128, stages: 3, threads: 384, names: names!("linear_backward_sm90", 80) },
    Kernel { tokens: 96, outputs: 64, stages: 6, threads: 384, names: names!("linear_backward_sm90", 96) },
    Kernel { tokens: 128, outputs: 64, stages: 5, threads: 384, names: names!("linear_backward_sm90", 128) },
];
const FEW: usize = 32;

impl Kernel {
    /// In how many parts the outputs of all layers are taken. Their sums have room in a workspace for one dequantised weight,
    /// which is what the op says it needs.
    fn parts(&self, multiprocessors: usize, layers: &[Nf4LinearParams]) -> usize {
        let most = layers.iter().map(|layer| layer.n as usize).max().unwrap_or(0);
        let filling = multiprocessors / (layers[0].k as usize).div_ceil(INPUTS);
        let room = most * DType::Bf16.size() / (layers[0].m as usize * DType::F32.size());
        filling.min(room).clamp(1, layers.iter().map(|layer| self.steps(layer)).sum())
    }

    /// Stages of a layer.
    fn steps(&self, layer: &Nf4LinearParams) -> usize {
        (layer.n as usize).div_ceil(self.outputs)
    }

    /// Bytes of a stage's scales: four absmax values an output, or their four codes and the absmax that they share.
    fn scales(&self, double: bool) -> usize {
        const PADDING: usize = 8;
        if double { self.outputs * (4 + 4) } else { INPUTS / BLOCK * (self.outputs + PADDING) * 4 }
    }

    fn launch(&self, double: bool, grid: [u32; 3], params: Nf4BackwardParams) -> Launch {
        // Lines of dy and of absmax are padded, so that lanes use all banks.
        let dy = self.tokens * (self.outputs + 16) * DType::Bf16.size();
        let stages = self.stages * (self.outputs * INPUTS / 2 + dy + self.scales(double));
        let sums = self.tokens * (INPUTS + 4) * DType::F32.size();
        let shared = TABLE_BYTES + MAP_BYTES + stages.max(sums);
        Launch::new("linear_backward", self.names.of(double), grid, self.threads, params).shared(shared as u32)
    }

    fn launch_on_hopper(
        &self,
        double: bool,
        grid: [u32; 3],
        backward: Nf4BackwardParams,
        layers: &[Nf4LinearParams],
    ) -> Launch {
        let dy = self.tokens * self.outputs * DType::Bf16.size();
        // Four scales an output, each as two bf16.
        let stage = self.outputs * INPUTS / 2 + dy + INPUTS / BLOCK * self.outputs * 4;
        let mut params = Nf4BackwardSm90Params { backward, ..Default::default() };
        for (i, layer) in layers.iter().enumerate() {
            (params.layers[i], params.steps[i]) = (*layer, self.steps(layer) as u32);
        }
        let launch = Launch::new("linear_backward_sm90", self.names.of(double), grid, self.threads, params)
            .shared(around_table(self.stages, stage));
        with_maps(launch, layers, [self.outputs, INPUTS / 4], [self.tokens, BLOCK])
    }
}

/// `dx = dy W`, or `dx += dy W`, of one layer or summed over several of one kind of scales; a layer's `x` is dy, its `y` dx. None
/// for more tokens or layers than a kernel takes or than are better taken apart, or a card without the room.
pub fn launches(gpu: &Gpu, double: bool, layers: &[Nf4LinearParams], accumulate: bool) -> Result<Option<Vec<Launch>>> {
    let linear = layers[0];
    let [rows, inputs] = [linear.m, linear.k].map(|x| x as usize);
    let hopper = gpu.capability() == HOPPER && rows > FEW;
    if !is_roomy(gpu) || layers.len() > if hopper { LAYERS } else { 1 } {
        return Ok(None);
    }
    let kernels: &[Kernel] = if hopper { &ON_HOPPER } else { &KERNELS };
    let Some(kernel) = kernels.iter().find(|k| rows <= k.tokens) else {
        let params = Nf4BackwardParams { linear, parts: 0, count: 1, accumulate: accumulate.into() };
        let many = if hopper { backward_many::choose(gpu, layers) } else { None };
        let multiprocessors = gpu.multiprocessors() as usize;
        return Ok(many.map(|many| vec![many.launch(multiprocessors, double, params, layers)]));
    };
    let count = kernel.parts(gpu.multiprocessors() as usize, layers);
    let parts = if count > 1 { gpu.workspace(count * rows * inputs * DType::F32.size())? } else { 0 };
    let params = Nf4BackwardParams { linear, parts, count: count as u32, accumulate: accumulate.into() };
    let grid = [count as u32, inputs.div_ceil(INPUTS) as u32, 1];
    let product = match hopper {
        true => kernel.launch_on_hopper(double, grid, params, layers),
        false => kernel.launch(double, grid, params),
    };
    let mut launches = vec![product];
    if count > 1 {
        let grid = [(rows * inputs).div_ceil(ADDED) as u32, 1, 1];
        launches.push(Launch::new("linear_backward", "linear_backward_sum", grid, ADDED as u32 / 4, params));
    }
    Ok(Some(launches))
}
