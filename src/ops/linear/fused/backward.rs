//! Launches of `linear_backward.cu` and, on Hopper, `linear_backward_sm90.cu`: the gradient of the input of few tokens.
//!
//! Blocks take parts of the outputs, so many that every multiprocessor has one; their sums are added up by a second launch.

use super::is_roomy;
use super::sm90::{TABLE_BYTES, around_table};
use super::{BLOCK, MAP_BYTES, Names, names};
use crate::device::{DType, Gpu, Launch, TensorMap};
use crate::ops::Result;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::params::{Nf4BackwardParams, Nf4BackwardSm90Params, Nf4LinearParams};
use std::mem::offset_of;

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
    names: Names,
}

const KERNELS: [Kernel; 4] = [
    Kernel { tokens: 8, outputs: 64, stages: 4, names: names!("linear_backward", 8) },
    Kernel { tokens: 16, outputs: 64, stages: 4, names: names!("linear_backward", 16) },
    Kernel { tokens: 32, outputs: 64, stages: 3, names: names!("linear_backward", 32) },
    Kernel { tokens: 64, outputs: 64, stages: 4, names: names!("linear_backward", 64) },
];
const THREADS: u32 = 256;
/// For more tokens than `FEW`.
const ON_HOPPER: [Kernel; 2] = [
    Kernel { tokens: 64, outputs: 128, stages: 3, names: names!("linear_backward_sm90", 64) },
    Kernel { tokens: 128, outputs: 64, stages: 5, names: names!("linear_backward_sm90", 128) },
];
const THREADS_ON_HOPPER: u32 = 384;
const FEW: usize = 32;

impl Kernel {
    /// In how many parts the outputs are taken. Their sums have room in a workspace for the dequantised weight, which is what
    /// the op says it needs.
    fn parts(&self, multiprocessors: usize, [rows, outputs, inputs]: [usize; 3]) -> usize {
        let filling = multiprocessors / inputs.div_ceil(INPUTS);
        let room = outputs * DType::Bf16.size() / (rows * DType::F32.size());
        filling.min(room).clamp(1, outputs.div_ceil(self.outputs))
    }

    /// Bytes of a stage's scales: four absmax values an output, or their four codes and the absmax that they share.
    fn scales(&self, double: bool, padding: usize) -> usize {
        if double { self.outputs * (4 + 4) } else { INPUTS / BLOCK * (self.outputs + padding) * 4 }
    }

    fn launch(&self, double: bool, grid: [u32; 3], params: Nf4BackwardParams) -> Launch {
        // Lines of dy and of absmax are padded, so that lanes use all banks.
        let dy = self.tokens * (self.outputs + 16) * DType::Bf16.size();
        let stages = self.stages * (self.outputs * INPUTS / 2 + dy + self.scales(double, 8));
        let sums = self.tokens * (INPUTS + 4) * DType::F32.size();
        let shared = TABLE_BYTES + MAP_BYTES + stages.max(sums);
        Launch::new("linear_backward", self.names.of(double), grid, THREADS, params).shared(shared as u32)
    }

    fn launch_on_hopper(&self, double: bool, grid: [u32; 3], backward: Nf4BackwardParams) -> Launch {
        let dy = self.tokens * self.outputs * DType::Bf16.size();
        let stage = self.outputs * INPUTS / 2 + dy + self.scales(double, 0);
        let Nf4LinearParams { codes, x: dy, m, n, k, .. } = backward.linear;
        let [rows, outputs, inputs] = [m, n, k].map(|x| x as usize);
        // Four codes are the two bytes of a bf16.
        let codes = TensorMap { address: codes, shape: [outputs, inputs / 4], block: [self.outputs, INPUTS / 4] };
        let dy = TensorMap { address: dy, shape: [rows, outputs], block: [self.tokens, BLOCK] };
        let params = Nf4BackwardSm90Params { backward, ..Default::default() };
        Launch::new("linear_backward_sm90", self.names.of(double), grid, THREADS_ON_HOPPER, params)
            .shared(around_table(self.stages, stage))
            .tensor_map(offset_of!(Nf4BackwardSm90Params, codes), codes)
            .tensor_map(offset_of!(Nf4BackwardSm90Params, dy), dy)
    }
}

/// `dx = dy W`, or `dx += dy W`; `linear`'s `x` is dy, its `y` dx. None for more tokens than a kernel takes, or a card without
/// the room.
pub fn launches(gpu: &Gpu, double: bool, linear: Nf4LinearParams, accumulate: bool) -> Result<Option<Vec<Launch>>> {
    let [rows, outputs, inputs] = [linear.m, linear.n, linear.k].map(|x| x as usize);
    if !is_roomy(gpu) {
        return Ok(None);
    }
    let hopper = gpu.capability() == HOPPER && rows > FEW;
    let kernels: &[Kernel] = if hopper { &ON_HOPPER } else { &KERNELS };
    let Some(kernel) = kernels.iter().find(|k| rows <= k.tokens) else { return Ok(None) };
    let count = kernel.parts(gpu.multiprocessors() as usize, [rows, outputs, inputs]);
    let parts = if count > 1 { gpu.workspace(count * rows * inputs * DType::F32.size())? } else { 0 };
    let params = Nf4BackwardParams { linear, parts, count: count as u32, accumulate: accumulate.into() };
    let grid = [count as u32, inputs.div_ceil(INPUTS) as u32, 1];
    let product =
        if hopper { kernel.launch_on_hopper(double, grid, params) } else { kernel.launch(double, grid, params) };
    let mut launches = vec![product];
    if count > 1 {
        let grid = [(rows * inputs).div_ceil(ADDED) as u32, 1, 1];
        launches.push(Launch::new("linear_backward", "linear_backward_sum", grid, ADDED as u32 / 4, params));
    }
    Ok(Some(launches))
}
