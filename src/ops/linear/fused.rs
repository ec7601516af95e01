//! Launches of `linear.cu`, `linear_sm90.cu`, `linear_backward_sm90.cu` (few tokens) and `linear_gemm_sm90.cu` (many): an NF4
//! weight without a dequantised copy in memory.

use crate::device::{DType, Gpu, Launch, Tensor, TensorMap};
use crate::ops::Result;
use crate::ops::gemm::{cuda::HOPPER, tiles};
use crate::ops::nf4::{Nf4Tensor, Scales};
use crate::ops::params::{Nf4GemmSm90Params, Nf4LinearParams, Nf4LinearSm90Params};
use std::mem::offset_of;

const THREADS: u32 = 512;
/// Of the weight a block, and a stage: rows, and inputs.
const ROWS: usize = 128;
const DEPTH: usize = 256;
/// Inputs that share an absmax.
const BLOCK: usize = 64;
/// On Hopper, tables of pairs of values lie at a multiple of 64 KB; what is below it is short of what the system keeps.
const HOPPER_TABLE_BYTES: usize = 1 << 16;
const BELOW_TABLE: usize = HOPPER_TABLE_BYTES - 1024;
/// The map of the scales.
const MAP_BYTES: usize = 256 * 4;
/// The table of pairs of values of `linear.cu`.
const TABLE_BYTES: usize = 256 * 32 * 4;

/// A kernel for up to so many tokens.
struct Kernel {
    tokens: usize,
    stages: usize,
    plain: &'static str,
    double: &'static str,
    hopper: Hopper,
}

/// The same on Hopper.
struct Hopper {
    stages: usize,
    threads: u32,
    plain: &'static str,
    double: &'static str,
}

/// `linear.cu` and `linear_sm90.cu` know the stages and threads too.
macro_rules! kernel {
    ($tokens:literal, $stages:literal, hopper $hopper_stages:literal, $threads:literal) => {
        Kernel {
            tokens: $tokens,
            stages: $stages,
            plain: concat!("linear_nf4_", $tokens),
            double: concat!("linear_nf4_double_", $tokens),
            hopper: Hopper {
                stages: $hopper_stages,
                threads: $threads,
                plain: concat!("linear_sm90_nf4_", $tokens),
                double: concat!("linear_sm90_nf4_double_", $tokens),
            },
        }
    };
}
const KERNELS: [Kernel; 4] = [
    kernel!(8, 8, hopper 7, 640),
    kernel!(16, 6, hopper 6, 640),
    kernel!(32, 4, hopper 4, 384),
    kernel!(64, 3, hopper 3, 384),
];

impl Hopper {
    /// `Shared` of the kernel: the stages that fit below the table, the table, the other stages, the map and the barriers.
    fn shared_bytes(&self, stage: usize) -> usize {
        let later = self.stages.saturating_sub(BELOW_TABLE / stage);
        BELOW_TABLE + HOPPER_TABLE_BYTES + later * stage + MAP_BYTES + self.stages * 2 * 8
    }

    fn name(&self, double: bool) -> &'static str {
        if double { self.double } else { self.plain }
    }
}

impl Kernel {
    fn shared_bytes(&self, double: bool) -> usize {
        // Four absmax values a row, or their four codes and the absmax that they share.
        let scales = if double { ROWS * (4 + 4) } else { ROWS * DEPTH / BLOCK * 4 };
        TABLE_BYTES + MAP_BYTES + self.stages * (ROWS * DEPTH / 2 + self.tokens * DEPTH * 2 + scales)
    }

    fn launch(&self, double: bool, params: Nf4LinearParams) -> Launch {
        let name = if double { self.double } else { self.plain };
        let grid = [(params.n as usize).div_ceil(ROWS) as u32, 1, 1];
        Launch::new("linear", name, grid, THREADS, params).shared(self.shared_bytes(double) as u32)
    }

    fn hopper(&self, double: bool, multiprocessors: usize, linear: Nf4LinearParams) -> Launch {
        let Nf4LinearParams { x, codes, m, n, k, .. } = linear;
        let [rows, outputs, inputs] = [m, n, k].map(|x| x as usize);
        let tiles = outputs.div_ceil(ROWS);
        let splits = splits(tiles, inputs.div_ceil(DEPTH), multiprocessors);
        let params = Nf4LinearSm90Params { linear, splits: splits as u32, ..Default::default() };
        // Four codes are the two bytes of a bf16.
        let codes = TensorMap { address: codes, shape: [outputs, inputs / 4], block: [ROWS, BLOCK] };
        let x = TensorMap { address: x, shape: [rows, inputs], block: [self.tokens, BLOCK] };
        let stage = ROWS * DEPTH / 2 + self.tokens * DEPTH * DType::Bf16.size();
        let grid = [(tiles * splits) as u32, 1, 1];
        Launch::new("linear_sm90", self.hopper.name(double), grid, self.hopper.threads, params)
            .shared(self.hopper.shared_bytes(stage) as u32)
            .cluster(splits as u32)
            .tensor_map(offset_of!(Nf4LinearSm90Params, codes), codes)
            .tensor_map(offset_of!(Nf4LinearSm90Params, x), x)
    }
}

/// A kernel of `linear_backward_sm90.cu`, for up to so many tokens.
struct Backward {
    tokens: usize,
    /// Of the weight a stage.
    outputs: usize,
    hopper: Hopper,
}

/// It knows a stage's outputs, the stages and the threads too.
macro_rules! backward {
    ($tokens:literal, $outputs:literal, $stages:literal, $threads:literal) => {
        Backward {
            tokens: $tokens,
            outputs: $outputs,
            hopper: Hopper {
                stages: $stages,
                threads: $threads,
                plain: concat!("linear_backward_sm90_nf4_", $tokens),
                double: concat!("linear_backward_sm90_nf4_double_", $tokens),
            },
        }
    };
}
const BACKWARD: [Backward; 5] = [
    backward!(8, 128, 7, 640),
    backward!(16, 128, 6, 384),
    backward!(32, 128, 5, 384),
    backward!(64, 128, 3, 384),
    backward!(128, 64, 5, 384),
];
/// Of the weight a block of threads.
const BACKWARD_INPUTS: usize = 256;

impl Backward {
    /// The stages begin at multiples of this, as swizzled lines do.
    const STAGE_ALIGNMENT: usize = 1024;

    /// `linear`'s `x` is dy, its `y` dx.
    fn launch(&self, double: bool, multiprocessors: usize, linear: Nf4LinearParams, accumulate: bool) -> Launch {
        let Nf4LinearParams { x: dy, codes, m, n, k, .. } = linear;
        let [rows, outputs, inputs] = [m, n, k].map(|x| x as usize);
        let tiles = inputs.div_ceil(BACKWARD_INPUTS);
        let splits = splits(tiles, outputs.div_ceil(self.outputs), multiprocessors);
        let codes =
            TensorMap { address: codes, shape: [outputs, inputs / 4], block: [self.outputs, BACKWARD_INPUTS / 4] };
        let dy = TensorMap { address: dy, shape: [rows, outputs], block: [self.tokens, BLOCK] };
        // Four absmax values an output, or their four codes and the absmax that they share.
        let scales = if double { 4 + 4 } else { BACKWARD_INPUTS / BLOCK * 4 };
        let bytes = self.outputs * (BACKWARD_INPUTS / 2 + self.tokens * DType::Bf16.size() + scales);
        let shared = self.hopper.shared_bytes(bytes.next_multiple_of(Backward::STAGE_ALIGNMENT));
        let (grid, accumulate) = ([(tiles * splits) as u32, 1, 1], accumulate.into());
        let params = Nf4LinearSm90Params { linear, splits: splits as u32, accumulate, ..Default::default() };
        Launch::new("linear_backward_sm90", self.hopper.name(double), grid, self.hopper.threads, params)
            .shared(shared as u32)
            .cluster(splits as u32)
            .tensor_map(offset_of!(Nf4LinearSm90Params, codes), codes)
            .tensor_map(offset_of!(Nf4LinearSm90Params, x), dy)
    }
}

/// A kernel of `linear_gemm_sm90.cu`.
struct Many {
    /// Of a tile.
    tokens: usize,
    /// Microseconds of a step of 64 inputs, on an H100.
    step: f64,
    plain: &'static str,
    double: &'static str,
}

const MANY: [Many; 2] = [
    Many { tokens: 256, step: 0.73, plain: "linear_gemm_sm90_nf4_256", double: "linear_gemm_sm90_nf4_double_256" },
    Many { tokens: 128, step: 0.42, plain: "linear_gemm_sm90_nf4_128", double: "linear_gemm_sm90_nf4_double_128" },
];
/// Blocks of a cluster, which share their tokens.
const SHARES: usize = 2;
const MANY_THREADS: u32 = 384;
/// Stages above the table, with the codes of one.
const MANY_STAGES_ABOVE: usize = 3;

impl Many {
    /// Pairs of tiles.
    fn pairs(&self, rows: usize, outputs: usize) -> usize {
        outputs.div_ceil(SHARES * ROWS) * rows.div_ceil(self.tokens)
    }

    /// Microseconds of a product, by a model like that of [`tiles`].
    fn time(&self, multiprocessors: usize, [rows, outputs, inputs]: [usize; 3]) -> f64 {
        const START: f64 = 6.0;
        const TILE: f64 = 2.0;
        let waves = self.pairs(rows, outputs).div_ceil(multiprocessors / SHARES);
        START + waves as f64 * (inputs.div_ceil(BLOCK) as f64 * self.step + TILE)
    }

    fn launch(&self, multiprocessors: usize, double: bool, linear: Nf4LinearParams) -> Launch {
        let Nf4LinearParams { x, codes, y, m, n, k, .. } = linear;
        let [rows, outputs, inputs] = [m, n, k].map(|x| x as usize);
        let blocks = self.pairs(rows, outputs).min(multiprocessors / SHARES) * SHARES;
        let map = |address, shape, block| TensorMap { address, shape, block };
        let shared = BELOW_TABLE
            + HOPPER_TABLE_BYTES
            + MANY_STAGES_ABOVE * self.tokens * BLOCK * DType::Bf16.size()
            + ROWS * BLOCK / 2;
        let name = if double { self.double } else { self.plain };
        let params = Nf4GemmSm90Params { linear, ..Default::default() };
        Launch::new("linear_gemm_sm90", name, [blocks as u32, 1, 1], MANY_THREADS, params)
            .shared(shared as u32)
            .cluster(SHARES as u32)
            .tensor_map(offset_of!(Nf4GemmSm90Params, codes), map(codes, [outputs, inputs / 4], [ROWS, BLOCK / 4]))
            .tensor_map(offset_of!(Nf4GemmSm90Params, x), map(x, [rows, inputs], [self.tokens / SHARES, BLOCK]))
            .tensor_map(offset_of!(Nf4GemmSm90Params, y), map(y, [rows, outputs], [64, 64]))
    }
}

/// The kernel for many tokens that takes less time, by `margin` microseconds, than dequantising the weight and the product
/// with it.
fn many(gpu: &Gpu, sizes: [usize; 3], margin: f64) -> Option<&'static Many> {
    const DEQUANTIZE: f64 = 5.0;
    const BYTES: f64 = 2.8e6;
    let [_, outputs, inputs] = sizes;
    if gpu.capability() != HOPPER || !outputs.is_multiple_of(8) || !inputs.is_multiple_of(2 * BLOCK) {
        return None;
    }
    let multiprocessors = gpu.multiprocessors() as usize;
    let (many, time) =
        MANY.iter().map(|many| (many, many.time(multiprocessors, sizes))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    // Half a byte and a sixteenth of an absmax read, two bytes written.
    let dequantize = DEQUANTIZE + (outputs * inputs) as f64 * (0.5 + 4.0 / 64.0 + 2.0) / BYTES;
    (time + margin < dequantize + tiles::time(multiprocessors, sizes)).then_some(many)
}

/// True where [`forward`] is faster than dequantising the weight and the product with it by so many microseconds at least,
/// for more tokens than a GPU takes few of.
pub fn wins_by(gpu: &Gpu, tokens: usize, weight: &Nf4Tensor, margin: f64) -> bool {
    let [outputs, inputs] = weight.shape;
    let double = matches!(weight.scales, Scales::Double { .. });
    inputs.is_multiple_of(if double { DEPTH } else { BLOCK }) && many(gpu, [tokens, outputs, inputs], margin).is_some()
}

/// The launch of `y = x W^T`, or None where the dequantised weight is the better way, or the only one.
pub fn forward(gpu: &Gpu, x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Option<Launch>> {
    let [outputs, inputs] = weight.shape;
    let double = matches!(weight.scales, Scales::Double { .. });
    let fits = inputs.is_multiple_of(if double { DEPTH } else { BLOCK });
    if x.dtype() != DType::Bf16 || !fits || x.rows() == 0 {
        return Ok(None);
    }
    let few = KERNELS.iter().find(|k| x.rows() <= k.tokens);
    let many = if few.is_none() { many(gpu, [x.rows(), outputs, inputs], 0.0) } else { None };
    if few.is_none() && many.is_none() {
        return Ok(None);
    }
    let params = params(x, weight, y)?;
    let multiprocessors = gpu.multiprocessors() as usize;
    Ok(few
        .map(|kernel| match gpu.capability() {
            HOPPER => kernel.hopper(double, multiprocessors, params),
            _ => kernel.launch(double, params),
        })
        .or_else(|| many.map(|many| many.launch(multiprocessors, double, params))))
}

/// The launch of `dx = dy W`, or `dx += dy W`; None where the dequantised weight is the only way.
pub fn backward_input(
    gpu: &Gpu,
    dy: &Tensor,
    weight: &Nf4Tensor,
    dx: &Tensor,
    accumulate: bool,
) -> Result<Option<Launch>> {
    let [outputs, inputs] = weight.shape;
    let double = matches!(weight.scales, Scales::Double { .. });
    // The copy engine's lines of dy begin at multiples of 16 bytes.
    let fits = inputs.is_multiple_of(if double { DEPTH } else { BLOCK }) && outputs.is_multiple_of(8);
    if gpu.capability() != HOPPER || dy.dtype() != DType::Bf16 || !fits || dy.rows() == 0 {
        return Ok(None);
    }
    let Some(kernel) = BACKWARD.iter().find(|k| dy.rows() <= k.tokens) else { return Ok(None) };
    let params = params(dy, weight, dx)?;
    Ok(Some(kernel.launch(double, gpu.multiprocessors() as usize, params, accumulate)))
}

/// Of rows `x` that a weight makes rows `y` of, in either direction.
fn params(x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Nf4LinearParams> {
    let [outputs, inputs] = weight.shape;
    let mut params = Nf4LinearParams {
        x: x.address()?,
        codes: weight.codes.address()?,
        y: y.address()?,
        m: x.rows() as u32,
        n: outputs as u32,
        k: inputs as u32,
        ..Default::default()
    };
    match &weight.scales {
        Scales::Plain { absmax } => params.absmax = absmax.address()?,
        Scales::Double { codes, nested, map, offset } => {
            params.absmax = nested.address()?;
            params.scale_codes = codes.address()?;
            params.map = map.address()?;
            params.offset = offset.address()?;
        }
    }
    Ok(params)
}

/// In how many parts, which are the blocks of a cluster, a tile's inputs are taken: as many as leave every block a
/// multiprocessor, with some to spare, for a cluster needs neighbours.
fn splits(tiles: usize, steps: usize, multiprocessors: usize) -> usize {
    const MOST: usize = 8;
    let spare = multiprocessors * 7 / 8;
    (1..=MOST.min(steps)).rev().find(|splits| tiles * splits <= spare).unwrap_or(1)
}
