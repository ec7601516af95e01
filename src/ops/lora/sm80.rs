//! Launches of `lora_sm80.cu`: the products of bf16 activations on the tensor cores.
//!
//! The thin ones (down, and three of the backward pass) leave partial sums in the workspace, which a second launch
//! adds up in a fixed order, where all of their sum is too much for a block. Products of several adapters share launches.

use super::sm90::Adapted;
use super::{Branch, Factors, Layer};
use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::gemm::Layout;
use crate::ops::gemm::cuda::HOPPER;
use crate::ops::gemm::sm90::{More, gemm_and_more, takes_more};
use crate::ops::linear::{self, Weight, fused};
use crate::ops::params::{
    DropoutParams, KIUNGO_LORA_DOWN, KIUNGO_LORA_DS, KIUNGO_LORA_JOBS, KIUNGO_LORA_TOKENS, LoraParams, LoraSideParams,
    LoraSumJob, LoraSumParams, LoraThinJob, LoraThinParams, LoraWideJob, LoraWideParams,
};
use crate::ops::{OpError, Result};

const THREADS: u32 = 128;
/// Rows of a block of the thin products, and what it sums at a time.
const ROWS: usize = 64;
const DEPTH: usize = 64;
/// Rows of a block of the wide ones, its columns, and those where blocks are few.
const WIDE_ROWS: usize = 64;
const WIDE_COLUMNS: usize = 128;
const STRIP: usize = 32;
/// Blocks of the thin products that a multiprocessor runs at once, as `lora_sm80.cu` promises the compiler.
fn resident(ranks: usize) -> usize {
    match ranks {
        16 => 4,
        32 => 3,
        _ => 2,
    }
}

/// Products of a launch.
const JOBS: usize = KIUNGO_LORA_JOBS as usize;
/// Of [`DEPTH`], that a block of `lora_thin_16_few` sums at most.
const FEW_STEPS: usize = 2;
/// Of [`DEPTH`], that a block sums before a gradient's sum is cut into parts.
const STEPS_OF_A_PART: usize = 4;
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
    down(gpu, x, &[(factors, s, None)])?;
    up(gpu, &[(factors, s, y)])
}

/// `s = drop(x) A^T` of adapters of one x, each with what else its sums become.
fn down(gpu: &Gpu, x: &Tensor, adapters: &[(&Factors, &Tensor, Option<Sides>)]) -> Result {
    let mut products = vec![];
    for &(factors, s, sides) in adapters {
        let dropout = factors.dropout_params()?;
        let sizes = [x.rows(), factors.a.rows(), x.columns()];
        let (kind, scale, store) = (Kind::Down, dropout.scale, Store::Replace);
        products.push(Thin { kind, left: x, right: factors.a, out: s, sizes, dropout, scale, store, sides });
    }
    thin(gpu, &products)
}

/// `y += scale s B^T` of each.
fn up(gpu: &Gpu, adapters: &[(&Factors, &Tensor, &Tensor)]) -> Result {
    let product = |&(factors, s, y): &(&Factors, &Tensor, &Tensor)| {
        let sizes = [y.rows(), y.columns(), factors.b.columns()];
        product([s, factors.b, y], sizes, factors.scale, kept())
    };
    wide(gpu, Wide::Up, &adapters.iter().map(product).collect::<Result<Vec<_>>>()?)
}

/// See [`super::backward_all`]. Two launches of thin products, the second of which needs the first's ds, and their sums.
pub fn backward(gpu: &Gpu, x: &Tensor, branches: &[Branch], dx: Option<&Tensor>) -> Result {
    let (tokens, inputs) = (x.rows(), x.columns());
    let mut first = vec![];
    for Branch { dy, s, factors, ds, db, .. } in branches {
        let (outputs, rank, scale) = (dy.columns(), factors.a.rows(), factors.scale);
        let of_dy = |kind, right, out, sizes, store| Thin {
            kind,
            left: dy,
            right,
            out,
            sizes,
            dropout: kept(),
            scale,
            store,
            sides: None,
        };
        first.push(of_dy(Kind::Ds, factors.b, &**ds, [tokens, rank, outputs], Store::Replace));
        first.push(of_dy(Kind::Tokens, *s, &**db, [outputs, rank, tokens], Store::Add));
    }
    thin(gpu, &first)?;
    let mut second = vec![];
    for Branch { factors, ds, da, .. } in branches {
        let dropout = factors.dropout_params()?;
        let (rank, scale, store) = (factors.a.rows(), dropout.scale, Store::AddTransposed);
        let (kind, sizes) = (Kind::Tokens, [inputs, rank, tokens]);
        second.push(Thin { kind, left: x, right: ds, out: da, sizes, dropout, scale, store, sides: None });
    }
    thin(gpu, &second)?;
    let Some(dx) = dx else { return Ok(()) };
    let of_dx = |Branch { factors, ds, .. }: &Branch| {
        let dropout = factors.dropout_params()?;
        product([ds, factors.a, dx], [tokens, inputs, factors.a.rows()], dropout.scale, dropout)
    };
    wide(gpu, Wide::Dx, &branches.iter().map(of_dx).collect::<Result<Vec<_>>>()?)
}

/// See [`super::layers`], of bf16 x. On a Hopper GPU many tokens have y and the adapter's part of it in one product,
/// `[x | scale s] [W | b]^T`, so that y is written once.
pub fn layers(gpu: &Gpu, x: &Tensor, layers: &mut [Layer]) -> Result {
    let ways: Vec<Way> = layers.iter().map(|layer| way(gpu, x, layer)).collect();
    let mut parts = Parts::of(gpu, x.rows(), layers.iter().map(|layer| (layer.weight, layer.rank())));
    let sides = parts.sides(gpu.workspace(parts.bytes())?, layers)?;
    // Those that leave nothing to the others come first: they may use all of the workspace.
    for ((layer, way), sides) in layers.iter_mut().zip(&ways).zip(&sides) {
        if let (Way::Adapted(adapted), Some((factors, s)), Some(sides)) = (way, &layer.adapter, sides) {
            let (s, y, more) = (&**s, &*layer.y, sides.more());
            layer
                .weight
                .with_dense(|w| adapted.launch(gpu, [x, w, s, y], factors, sides.factor, &more, parts.scratch))?;
        }
    }
    let mut adapters = vec![];
    for ((layer, way), sides) in layers.iter().zip(&ways).zip(&sides) {
        match (way, &layer.adapter) {
            (Way::More, Some((factors, s))) => adapters.push((factors, &**s, *sides)),
            (Way::Beside, Some((factors, s))) => adapters.push((factors, &**s, None)),
            _ => {}
        }
    }
    down(gpu, x, &adapters)?;
    let (mut apart, mut left) = (vec![], vec![]);
    for ((layer, way), sides) in layers.iter_mut().zip(&ways).zip(&sides) {
        match (way, sides) {
            (Way::Adapted(_), _) => {}
            (Way::More, Some(sides)) => layer.weight.with_dense(|w| {
                let sizes = [x.rows(), layer.y.columns(), x.columns()];
                let multiprocessors = gpu.multiprocessors() as usize;
                let launch = gemm_and_more(multiprocessors, Layout::Nt, sizes, x, w, layer.y, &sides.more())?;
                // Way::More says that there is one.
                launch.map_or(Ok(()), |launch| Ok(gpu.launch(&launch)?))
            })?,
            _ => {
                apart.push((layer.weight, &mut *layer.y));
                left.push(layer.adapter.as_ref().map(|(factors, s)| (factors, &**s)));
            }
        }
    }
    linear::forward_all(x, &mut apart)?;
    let of_adapters =
        apart.iter().zip(left).filter_map(|((_, y), adapter)| adapter.map(|(factors, s)| (factors, s, &**y)));
    up(gpu, &of_adapters.collect::<Vec<_>>())
}

/// How a layer and its adapter are computed.
enum Way {
    /// In one launch, s included.
    Adapted(Adapted),
    /// s with those of other adapters, then y in one product.
    More,
    /// s with those of other adapters; y, then the adapter's part of it added.
    Beside,
}

fn way(gpu: &Gpu, x: &Tensor, layer: &Layer) -> Way {
    let sizes @ [tokens, outputs, _] = [x.rows(), layer.y.columns(), x.columns()];
    let Some((factors, _)) = &layer.adapter else { return Way::Beside };
    if tokens < FEW_TOKENS || gpu.capability() != HOPPER {
        return Way::Beside;
    }
    match layer.weight {
        Weight::Dense(w) if w.dtype() != DType::Bf16 => return Way::Beside,
        Weight::Nf4(codes) if fused::wins_by(gpu, tokens, codes, up_microseconds(tokens, outputs)) => {
            return Way::Beside;
        }
        _ => {}
    }
    let multiprocessors = gpu.multiprocessors() as usize;
    match Adapted::choose(multiprocessors, sizes, factors) {
        Some(adapted) => Way::Adapted(adapted),
        None if takes_more(multiprocessors, sizes, width(factors.a.rows())) => Way::More,
        None => Way::Beside,
    }
}

/// About what a wide product takes that adds to y.
fn up_microseconds(tokens: usize, outputs: usize) -> f64 {
    const START: f64 = 6.0;
    const BYTES: f64 = 2.5e6;
    START + (2 * tokens * outputs * DType::Bf16.size()) as f64 / BYTES
}

/// What the two sides of the second product of [`layers`] are made of, beside the sums: where these go, and the factor.
#[derive(Clone, Copy)]
struct Sides {
    left: u64,
    scale: f32,
    factor: LoraSideParams,
}

impl Sides {
    fn more(&self) -> More {
        More { a: self.left, b: self.factor.side, k: self.factor.width as usize }
    }
}

/// What [`layers`] takes of the workspace: first room for a dequantised weight or for the partial sums, then for each layer the
/// sides of its second product, then what one launch of both needs.
struct Parts {
    first: usize,
    sides: Vec<[usize; 2]>,
    last: usize,
    /// Where the last begins.
    scratch: u64,
}

impl Parts {
    /// For layers' weights and the ranks of their adapters, 0 for none.
    fn of<'a>(gpu: &Gpu, tokens: usize, layers: impl Iterator<Item = (&'a Weight, usize)>) -> Parts {
        let mut parts = Parts { first: 0, sides: vec![], last: 0, scratch: 0 };
        let (mut adapters, mut most) = (0, 0);
        for (weight, rank) in layers {
            let [outputs, inputs] = [weight.shape()[0], weight.shape()[1]];
            let side = |n: usize| aligned(n * width(rank) * DType::Bf16.size());
            parts.first = parts.first.max(weight.workspace_bytes());
            parts.sides.push([side(tokens), side(outputs)]);
            if rank > 0 {
                parts.last = parts.last.max(aligned(Adapted::scratch_bytes(tokens, inputs)));
                (adapters, most) = (adapters + 1, rank.max(most));
            }
        }
        parts.first = aligned(parts.first.max(workspace(gpu, tokens, most, adapters)));
        parts
    }

    fn bytes(&self) -> usize {
        self.first + self.sides.iter().flatten().sum::<usize>() + self.last
    }

    /// The sides of each layer that has an adapter, in a workspace.
    fn sides(&mut self, workspace: u64, layers: &[Layer]) -> Result<Vec<Option<Sides>>> {
        let mut next = workspace + self.first as u64;
        let mut all = vec![];
        for (layer, [left_bytes, right_bytes]) in layers.iter().zip(&self.sides) {
            let (left, right) = (next, next + *left_bytes as u64);
            next = right + *right_bytes as u64;
            let sides = |factors: &Factors| {
                let (rows, rank) = (factors.b.rows(), factors.b.columns());
                let factor = LoraSideParams {
                    x: factors.b.address()?,
                    side: right,
                    rows: rows as u32,
                    rank: rank as u32,
                    width: width(rank) as u32,
                    unused: 0,
                };
                Ok::<_, OpError>(Sides { left, scale: factors.scale, factor })
            };
            all.push(layer.adapter.as_ref().map(|(factors, _)| sides(factors)).transpose()?);
        }
        self.scratch = next;
        Ok(all)
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// See [`super::layers_workspace`].
pub fn layers_workspace(gpu: &Gpu, tokens: usize, weights: &[&Weight], rank: usize) -> usize {
    Parts::of(gpu, tokens, weights.iter().map(|&weight| (weight, rank))).bytes()
}

/// Bytes of the partial sums of a launch for so many adapters, at most.
pub fn workspace(gpu: &Gpu, tokens: usize, rank: usize, adapters: usize) -> usize {
    if adapters == 0 {
        return 0;
    }
    let ranks = ranks(rank);
    // As many blocks as run at once, and those of which each takes all of k.
    let tiles = adapters * tokens.div_ceil(ROWS) * rank.div_ceil(ranks);
    (at_once(gpu, ranks) + tiles) * ROWS * ranks * DType::F32.size()
}

/// Without dropout.
fn kept() -> DropoutParams {
    DropoutParams { scale: 1.0, ..Default::default() }
}

/// What a thin product sums over, and how its sides lie.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Down = KIUNGO_LORA_DOWN as isize,
    Ds = KIUNGO_LORA_DS as isize,
    Tokens = KIUNGO_LORA_TOKENS as isize,
}

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

/// Blocks of the thin products that run at once: those of a second round would leave most of the GPU idle.
fn at_once(gpu: &Gpu, ranks: usize) -> usize {
    gpu.multiprocessors() as usize * resident(ranks)
}

/// Whether the sides of the second product of [`layers`] are two bf16 a value, three products. More ranks are rounded, as
/// autocast does: they would take the layer's own product longer than all else of the adapter.
pub fn splits(rank: usize) -> bool {
    const MOST: usize = 32;
    rank <= MOST
}

/// Columns that the second product of [`layers`] sums over.
pub fn width(rank: usize) -> usize {
    let products = if splits(rank) { 3 } else { 1 };
    (products * rank).next_multiple_of(8)
}

/// `out[m, rank]` from a sum over `k`; `sizes` are m, rank, k.
struct Thin<'a> {
    kind: Kind,
    left: &'a Tensor,
    right: &'a Tensor,
    out: &'a Tensor,
    sizes: [usize; 3],
    dropout: DropoutParams,
    scale: f32,
    store: Store,
    sides: Option<Sides>,
}

impl Thin<'_> {
    fn tiles(&self, ranks: usize) -> usize {
        let [m, rank, _] = self.sizes;
        m.div_ceil(ROWS) * rank.div_ceil(ranks)
    }

    /// Of [`DEPTH`], of its sum.
    fn steps(&self) -> usize {
        self.sizes[2].div_ceil(DEPTH).max(1)
    }

    /// Parts that its sum is cut into where there are blocks for so many. Gradients of factors, which can be added where they
    /// belong if there is one part, have few.
    fn parts(&self, wanted: usize) -> usize {
        let steps = self.steps();
        let most = if self.store == Store::Replace { steps } else { steps.div_ceil(STEPS_OF_A_PART) };
        wanted.clamp(1, most)
    }

    /// Whether the product itself stores its result.
    fn is_whole(&self, parts: usize) -> bool {
        parts == 1 && self.store != Store::Replace
    }

    fn partial_bytes(&self, parts: usize) -> usize {
        let [m, n, _] = self.sizes;
        if self.is_whole(parts) { 0 } else { parts * m * n * DType::F32.size() }
    }

    fn job(&self, ranks: usize, parts: usize, partials: u64) -> Result<LoraThinJob> {
        let [m, n, k] = self.sizes.map(|size| size as u32);
        Ok(LoraThinJob {
            left: self.left.address()?,
            right: self.right.address()?,
            partials,
            out: if self.is_whole(parts) { self.out.address()? } else { 0 },
            m,
            n,
            k,
            parts: parts as u32,
            kind: self.kind as u32,
            transposed: (self.store == Store::AddTransposed).into(),
            blocks: (self.tiles(ranks) * parts) as u32,
            scale: self.scale,
            dropout: self.dropout,
        })
    }

    fn sum(&self, parts: usize, partials: u64) -> Result<LoraSumJob> {
        let [m, n, _] = self.sizes;
        let (sides, factor) = (self.sides, self.sides.map(|sides| sides.factor).unwrap_or_default());
        let factors = (factor.rows * factor.rank) as usize;
        Ok(LoraSumJob {
            partials,
            out: self.out.address()?,
            m: m as u32,
            n: n as u32,
            parts: parts as u32,
            transposed: (self.store == Store::AddTransposed).into(),
            accumulate: (self.store != Store::Replace).into(),
            scale: self.scale,
            side: sides.map_or(0, |sides| sides.left),
            width: factor.width,
            side_scale: sides.map_or(0.0, |sides| sides.scale),
            blocks: ((m * n).div_ceil(SUM_THREADS) + factors.div_ceil(SUM_THREADS)) as u32,
            unused: 0,
            factor,
        })
    }
}

/// The parts of each product, so that all blocks run at once: gradients, which have few, take theirs first, where there is room for
/// three at least. Two cost more to add up than they save (gate and up of Llama 3 8B, 768 tokens: 60 us for 52).
fn all_parts(at_once: usize, products: &[Thin], ranks: usize) -> Vec<usize> {
    let tiles = |few: bool| -> usize {
        products.iter().filter(|p| (p.store != Store::Replace) == few).map(|p| p.tiles(ranks)).sum()
    };
    let wanted = at_once / (tiles(true) + tiles(false)).max(1);
    let of_gradients = if wanted < 3 { 1 } else { wanted };
    let few: usize =
        products.iter().filter(|p| p.store != Store::Replace).map(|p| p.parts(of_gradients) * p.tiles(ranks)).sum();
    let left = at_once.saturating_sub(few) / tiles(false).max(1);
    products.iter().map(|p| p.parts(if p.store == Store::Replace { left } else { of_gradients })).collect()
}

/// Computes products that do not need each other.
fn thin(gpu: &Gpu, products: &[Thin]) -> Result {
    for products in products.chunks(JOBS) {
        let ranks = products.iter().map(|product| ranks(product.sizes[1])).max().unwrap_or(0);
        if products.iter().all(|product| product.tiles(ranks) == 0) {
            continue;
        }
        let parts = all_parts(at_once(gpu, ranks), products, ranks);
        let few = products.iter().zip(&parts).all(|(product, &parts)| product.steps().div_ceil(parts) <= FEW_STEPS);
        let kernel = match ranks {
            16 if few => "lora_thin_16_few",
            16 => "lora_thin_16",
            32 => "lora_thin_32",
            _ => "lora_thin_64",
        };
        let bytes = |(product, &parts): (&Thin, &usize)| product.partial_bytes(parts);
        let mut next = gpu.workspace(products.iter().zip(&parts).map(bytes).sum())?;
        let (mut jobs, mut sums) = (LoraThinParams::default(), LoraSumParams::default());
        let (mut blocks, mut sum_blocks, mut summed) = (0, 0, 0);
        for (job, (product, &parts)) in jobs.jobs.iter_mut().zip(products.iter().zip(&parts)) {
            *job = product.job(ranks, parts, next)?;
            blocks += job.blocks;
            if !product.is_whole(parts) {
                sums.jobs[summed] = product.sum(parts, next)?;
                (sum_blocks, summed) = (sum_blocks + sums.jobs[summed].blocks, summed + 1);
                next += product.partial_bytes(parts) as u64;
            }
        }
        gpu.launch(&Launch::new("lora_sm80", kernel, [blocks, 1, 1], THREADS, jobs))?;
        if summed > 0 {
            let kernel = if sum_blocks <= gpu.multiprocessors() { "lora_sum_few" } else { "lora_sum" };
            gpu.launch(&Launch::new("lora_sm80", kernel, [sum_blocks, 1, 1], SUM_THREADS as u32, sums))?;
        }
    }
    Ok(())
}

/// `out[m, n] += scale * left[m, k] right`; sizes are m, n, k.
fn product(
    [left, right, out]: [&Tensor; 3],
    [m, n, k]: [usize; 3],
    scale: f32,
    dropout: DropoutParams,
) -> Result<LoraWideJob> {
    let product = LoraParams {
        left: left.address()?,
        right: right.address()?,
        out: out.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        scale,
        dropout,
    };
    Ok(LoraWideJob { product, blocks: 0, unused: 0 })
}

/// What wide products are added to.
#[derive(Clone, Copy, PartialEq)]
enum Wide {
    /// Matrices of their own.
    Up,
    /// All to one.
    Dx,
}

fn wide(gpu: &Gpu, wide: Wide, products: &[LoraWideJob]) -> Result {
    for products in products.chunks(JOBS) {
        let blocks = |columns: usize| {
            let of_one = |job: &LoraWideJob| {
                let [m, n] = [job.product.m, job.product.n].map(|size| size as usize);
                (m.div_ceil(WIDE_ROWS) * n.div_ceil(columns)) as u32
            };
            products.iter().map(of_one).collect::<Vec<_>>()
        };
        let all = |each: &[u32]| match wide {
            Wide::Up => each.iter().sum(),
            Wide::Dx => each.iter().copied().max().unwrap_or(0),
        };
        let mut each = blocks(WIDE_COLUMNS);
        let strips = all(&each) < gpu.multiprocessors();
        if strips {
            each = blocks(STRIP);
        }
        let kernel = match (wide, strips) {
            (Wide::Up, false) => "lora_wide_up",
            (Wide::Up, true) => "lora_wide_up_strips",
            (Wide::Dx, false) => "lora_wide_dx",
            (Wide::Dx, true) => "lora_wide_dx_strips",
        };
        let mut params = LoraWideParams::default();
        for (job, (product, blocks)) in params.jobs.iter_mut().zip(products.iter().zip(&each)) {
            *job = LoraWideJob { blocks: *blocks, ..*product };
        }
        if all(&each) > 0 {
            gpu.launch(&Launch::new("lora_sm80", kernel, [all(&each), 1, 1], THREADS, params))?;
        }
    }
    Ok(())
}
