//! Launches of `lora_sm80.cu`: the products of bf16 activations on the tensor cores.
//!
//! The thin ones (down, and three of the backward pass) leave partial sums in the workspace, which a second launch
//! adds up in a fixed order.

use super::Factors;
use super::sm90::Adapted;
use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::gemm::sm90::{More, gemm_and_more};
use crate::ops::gemm::{Layout, gemm};
use crate::ops::linear::{Weight, fused};
use crate::ops::params::{DropoutParams, LoraParams, LoraSideParams, LoraSumParams, LoraThinParams};

const THREADS: u32 = 128;
/// Rows of a block of the thin products, and what it sums at a time.
const ROWS: usize = 64;
const DEPTH: usize = 64;
/// Rows and columns of a block of the wide ones.
const WIDE: [usize; 2] = [64, 128];
/// Blocks of the thin products that a multiprocessor runs at once, as `lora_sm80.cu` promises the compiler.
fn resident(ranks: usize) -> usize {
    match ranks {
        16 => 4,
        32 => 3,
        _ => 2,
    }
}

/// Threads of a block that adds up.
const SUM_THREADS: usize = 256;

/// Fewer than these and the product splits its k, which the tiles that add another product cannot.
const FEW_TOKENS: usize = 256;
/// Bytes that parts of the workspace begin at multiples of.
const ALIGNMENT: usize = 256;

/// True for what these kernels take: bf16, in rows of multiples of 16 bytes.
pub fn fits(x: &Tensor, columns: [usize; 2]) -> bool {
    x.dtype() == DType::Bf16 && columns.iter().all(|n| n.is_multiple_of(8))
}

pub fn forward(gpu: &Gpu, x: &Tensor, factors: &Factors, s: &Tensor, y: &Tensor) -> Result {
    let (tokens, inputs, outputs) = (x.rows(), x.columns(), y.columns());
    let (rank, dropout) = (factors.a.rows(), factors.dropout_params()?);
    let down = Thin { kernels: DOWN, left: x, right: factors.a, out: s, sizes: [tokens, rank, inputs], dropout };
    down.launch(gpu, dropout.scale, Store::Replace, None)?;
    wide(gpu, "lora_wide_up", [s, factors.b, y], [tokens, outputs, rank], factors.scale, kept())
}

#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn backward(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    s: &Tensor,
    factors: &Factors,
    ds: &Tensor,
    da: &Tensor,
    db: &Tensor,
    dx: Option<&Tensor>,
) -> Result {
    let (tokens, inputs, outputs) = (x.rows(), x.columns(), dy.columns());
    let (rank, dropout) = (factors.a.rows(), factors.dropout_params()?);
    let product =
        Thin { kernels: DS, left: dy, right: factors.b, out: ds, sizes: [tokens, rank, outputs], dropout: kept() };
    product.launch(gpu, factors.scale, Store::Replace, None)?;
    let product =
        Thin { kernels: TOKENS, left: dy, right: s, out: db, sizes: [outputs, rank, tokens], dropout: kept() };
    product.launch(gpu, factors.scale, Store::Add, None)?;
    let product = Thin { kernels: TOKENS, left: x, right: ds, out: da, sizes: [inputs, rank, tokens], dropout };
    product.launch(gpu, dropout.scale, Store::AddTransposed, None)?;
    let Some(dx) = dx else { return Ok(()) };
    wide(gpu, "lora_wide_dx", [ds, factors.a, dx], [tokens, inputs, rank], dropout.scale, dropout)
}

/// [`forward`] and the layer itself, `y = x W^T + ...`, in one product on a Hopper GPU: `[x | scale s] [W | b]^T`, so that y
/// is written once. False where that is not the way.
pub fn linear(gpu: &Gpu, x: &Tensor, weight: &Weight, factors: &Factors, s: &Tensor, y: &mut Tensor) -> Result<bool> {
    let (tokens, inputs, outputs) = (x.rows(), x.columns(), y.columns());
    let few = tokens < FEW_TOKENS || gpu.capability() != HOPPER || !fits(x, [inputs, outputs]);
    if few || matches!(weight, Weight::Dense(w) if w.dtype() != DType::Bf16) {
        return Ok(false);
    }
    if let Weight::Nf4(codes) = weight
        && fused::wins_by(gpu, tokens, codes, up_microseconds(tokens, outputs))
    {
        return Ok(false);
    }
    let (rank, dropout) = (factors.a.rows(), factors.dropout_params()?);
    // What the two sides of the second product are, behind the dequantised weight and the partial sums.
    let width = width(rank);
    let parts @ [first, left_bytes, right_bytes, _] = linear_parts(gpu, tokens, weight, rank);
    let left = gpu.workspace(parts.iter().sum())? + first as u64;
    let right = left + left_bytes as u64;
    let factor = LoraSideParams {
        x: factors.b.address()?,
        side: right,
        rows: outputs as u32,
        rank: rank as u32,
        width: width as u32,
        unused: 0,
    };
    let sizes = [tokens, outputs, inputs];
    let more = More { a: left, b: right, k: width };
    let multiprocessors = gpu.multiprocessors() as usize;
    if let Some(adapted) = Adapted::choose(multiprocessors, sizes, factors) {
        let scratch = right + right_bytes as u64;
        return weight
            .with_dense(|w| adapted.launch(gpu, [x, w, s, y], factors, factor, &more, scratch))
            .map(|()| true);
    }
    let down = Thin { kernels: DOWN, left: x, right: factors.a, out: s, sizes: [tokens, rank, inputs], dropout };
    down.launch(gpu, dropout.scale, Store::Replace, Some(Sides { left, scale: factors.scale, factor }))?;
    weight.with_dense(|w| match gemm_and_more(multiprocessors, sizes, x, w, y, &more)? {
        Some(launch) => Ok(gpu.launch(&launch)?),
        None => {
            gemm(Layout::Nt, x, w, y, false)?;
            wide(gpu, "lora_wide_up", [s, factors.b, &*y], [tokens, outputs, rank], factors.scale, kept())
        }
    })?;
    Ok(true)
}

/// About what a wide product takes that adds to y.
fn up_microseconds(tokens: usize, outputs: usize) -> f64 {
    const START: f64 = 6.0;
    const BYTES: f64 = 2.5e6;
    START + (2 * tokens * outputs * DType::Bf16.size()) as f64 / BYTES
}

/// What the two sides of the second product of [`linear`] are made of, beside the sums: where these go, and the factor.
#[derive(Clone, Copy)]
struct Sides {
    left: u64,
    scale: f32,
    factor: LoraSideParams,
}

/// Without dropout.
fn kept() -> DropoutParams {
    DropoutParams { scale: 1.0, ..Default::default() }
}

/// Kernels of a product for up to 16, up to 32, and any number of ranks.
type Kernels = [&'static str; 3];
const DOWN: Kernels = ["lora_thin_down_16", "lora_thin_down_32", "lora_thin_down_64"];
const DS: Kernels = ["lora_thin_ds_16", "lora_thin_ds_32", "lora_thin_ds_64"];
const TOKENS: Kernels = ["lora_thin_tokens_16", "lora_thin_tokens_32", "lora_thin_tokens_64"];

/// What becomes of sums.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Replace,
    Add,
    AddTransposed,
}

/// Ranks of a block of the thin products: 16, 32 or 64.
fn ranks(rank: usize) -> usize {
    rank.next_power_of_two().clamp(16, 64)
}

/// Parts that the sum over `k` is cut into, so that all multiprocessors have work.
fn parts(gpu: &Gpu, [m, rank, k]: [usize; 3]) -> usize {
    let ranks = ranks(rank);
    let tiles = m.div_ceil(ROWS) * rank.div_ceil(ranks);
    // All at once: the last blocks of a second round would leave most of the GPU idle.
    let wanted = gpu.multiprocessors() as usize * resident(ranks) / tiles.max(1);
    wanted.clamp(1, k.div_ceil(DEPTH).max(1))
}

/// Whether the sides of the second product of [`linear`] are two bf16 a value, three products. More ranks are rounded, as
/// autocast does: they would take the layer's own product longer than all else of the adapter.
pub fn splits(rank: usize) -> bool {
    const MOST: usize = 32;
    rank <= MOST
}

/// Columns that the second product of [`linear`] sums over.
pub fn width(rank: usize) -> usize {
    let products = if splits(rank) { 3 } else { 1 };
    (products * rank).next_multiple_of(8)
}

/// What [`linear`] takes of the workspace: for the layer and the partial sums, for the sides of its second product, and for
/// what one launch of both needs.
pub fn linear_parts(gpu: &Gpu, tokens: usize, weight: &Weight, rank: usize) -> [usize; 4] {
    let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
    let first = weight.workspace_bytes().max(partial_bytes(gpu, [tokens, rank, inputs]));
    let side = |n: usize| n * width(rank) * DType::Bf16.size();
    [first, side(tokens), side(outputs), Adapted::scratch_bytes(tokens, inputs)]
        .map(|bytes| bytes.next_multiple_of(ALIGNMENT))
}

fn partial_bytes(gpu: &Gpu, sizes @ [m, rank, _]: [usize; 3]) -> usize {
    parts(gpu, sizes) * m * rank * DType::F32.size()
}

/// See [`super::workspace`].
pub fn workspace(gpu: &Gpu, tokens: usize, [outputs, inputs]: [usize; 2], rank: usize) -> usize {
    let products = [[tokens, rank, inputs], [tokens, rank, outputs], [outputs, rank, tokens], [inputs, rank, tokens]];
    products.map(|sizes| partial_bytes(gpu, sizes)).into_iter().max().unwrap_or(0)
}

/// `out[m, rank]` from a sum over `k`; `sizes` are m, rank, k.
struct Thin<'a> {
    kernels: Kernels,
    left: &'a Tensor,
    right: &'a Tensor,
    out: &'a Tensor,
    sizes: [usize; 3],
    dropout: DropoutParams,
}

impl Thin<'_> {
    fn launch(self, gpu: &Gpu, scale: f32, store: Store, sides: Option<Sides>) -> Result {
        let [m, n, k] = self.sizes;
        if m == 0 {
            return Ok(());
        }
        let ranks = ranks(n);
        let [of_16, of_32, of_64] = self.kernels;
        let kernel = match ranks {
            16 => of_16,
            32 => of_32,
            _ => of_64,
        };
        let parts = parts(gpu, self.sizes);
        let partials = gpu.workspace(partial_bytes(gpu, self.sizes))?;
        let (m32, n32) = (m as u32, n as u32);
        let params = LoraThinParams {
            left: self.left.address()?,
            right: self.right.address()?,
            partials,
            m: m32,
            n: n32,
            k: k as u32,
            unused: 0,
            dropout: self.dropout,
        };
        let grid = [m.div_ceil(ROWS) as u32, n.div_ceil(ranks) as u32, parts as u32];
        gpu.launch(&Launch::new("lora_sm80", kernel, grid, THREADS, params))?;
        let params = LoraSumParams {
            partials,
            out: self.out.address()?,
            m: m32,
            n: n32,
            parts: parts as u32,
            transposed: (store == Store::AddTransposed).into(),
            accumulate: (store != Store::Replace).into(),
            scale,
            side: sides.map_or(0, |sides| sides.left),
            width: sides.map_or(0, |sides| sides.factor.width),
            side_scale: sides.map_or(0.0, |sides| sides.scale),
            factor: sides.map(|sides| sides.factor).unwrap_or_default(),
        };
        let factor = (params.factor.rows * params.factor.rank) as usize;
        let grid = [((m * n).div_ceil(SUM_THREADS) + factor.div_ceil(SUM_THREADS)) as u32, 1, 1];
        Ok(gpu.launch(&Launch::new("lora_sm80", "lora_sum", grid, SUM_THREADS as u32, params))?)
    }
}

/// `out[m, n] += scale * left[m, k] right`; `sizes` are m, n, k.
fn wide(
    gpu: &Gpu,
    kernel: &'static str,
    [left, right, out]: [&Tensor; 3],
    [m, n, k]: [usize; 3],
    scale: f32,
    dropout: DropoutParams,
) -> Result {
    let params = LoraParams {
        left: left.address()?,
        right: right.address()?,
        out: out.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        scale,
        dropout,
    };
    let grid = [m.div_ceil(WIDE[0]) as u32, n.div_ceil(WIDE[1]) as u32, 1];
    Ok(gpu.launch(&Launch::new("lora_sm80", kernel, grid, THREADS, params))?)
}
