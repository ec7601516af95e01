//! AdamW with moments, weights and gradients of fewer bits.

use super::maps;
use super::{AdamW, Coefficients, Source};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::Result;
use crate::ops::check::{Allowed, Check, F32, FLOAT, U32};
use crate::ops::float::with_float;
use crate::ops::params::KIUNGO_ADAMW_BLOCK;
use crate::ops::step::{State, Status};

/// Elements of an 8-bit moment that share an absmax.
pub const BLOCK: usize = KIUNGO_ADAMW_BLOCK as usize;

/// What the moments of a parameter are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bytes a weight.
    #[default]
    F32,
    /// 4 bytes a weight, rounded at random.
    Bf16,
    /// 2 bytes a weight and 8 for each [`BLOCK`]: a byte names a value of a [map](maps) of what is left after division by
    /// the block's absmax.
    Blocks8,
}

crate::words::words! { Precision: "precision of moments" { F32 = "f32", Bf16 = "bf16", Blocks8 = "8-bit" } }

/// The first and second moments of one parameter.
#[derive(Debug)]
pub struct Moments {
    pub(super) first: Tensor,
    pub(super) second: Tensor,
    pub(super) blocks: Option<Blocks>,
}

/// What 8-bit moments need besides their bytes.
#[derive(Debug)]
pub(super) struct Blocks {
    pub first: Tensor,
    pub second: Tensor,
    pub tables: Tensor,
}

impl Moments {
    /// Zeros, for a parameter of that shape.
    pub fn new(device: &Device, precision: Precision, shape: &[usize]) -> std::result::Result<Moments, DeviceError> {
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
            Precision::Blocks8 => DType::U8,
        };
        let blocks = match precision {
            Precision::Blocks8 => {
                let absmax = || Tensor::zeros(device, DType::F32, &[shape.iter().product::<usize>().div_ceil(BLOCK)]);
                let tables = maps::tables();
                let tables = Tensor::from_slice(device, &tables, &[tables.len()])?;
                Some(Blocks { first: absmax()?, second: absmax()?, tables })
            }
            _ => None,
        };
        let zeros = || Tensor::zeros(device, dtype, shape);
        Ok(Moments { first: zeros()?, second: zeros()?, blocks })
    }

    /// f32 moments in these tensors, of one shape.
    pub(crate) fn of(first: Tensor, second: Tensor) -> Moments {
        Moments { first, second, blocks: None }
    }

    /// Bytes of the moments of `count` weights.
    pub fn bytes(precision: Precision, count: usize) -> usize {
        match precision {
            Precision::F32 => 2 * count * DType::F32.size(),
            Precision::Bf16 => 2 * count * DType::Bf16.size(),
            Precision::Blocks8 => 2 * (count + count.div_ceil(BLOCK) * DType::F32.size()),
        }
    }

    /// What they are kept in.
    pub fn precision(&self) -> Precision {
        match self.first.dtype() {
            DType::F32 => Precision::F32,
            DType::Bf16 => Precision::Bf16,
            _ => Precision::Blocks8,
        }
    }

    /// All that changes from step to step: the first and the second moment, and of 8-bit ones the absmax of the blocks of
    /// each, `[ceil(elements / 256)]` f32.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let blocks = self.blocks.iter().flat_map(|blocks| [&blocks.first, &blocks.second]);
        [&self.first, &self.second].into_iter().chain(blocks).collect()
    }

    /// The same, to be written.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let blocks = self.blocks.iter_mut().flat_map(|blocks| [&mut blocks.first, &mut blocks.second]);
        [&mut self.first, &mut self.second].into_iter().chain(blocks).collect()
    }
}

/// What makes rounding at random repeatable: bits are a function of seed, stream, step, and element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounding {
    /// The run's seed.
    pub seed: u64,
    /// Tells the parameters of one run apart.
    pub stream: u32,
}

/// [`step`](super::step) with moments, weights and gradients of any precision.
///
/// Everything is computed in f32. bf16 weights and moments are rounded at random, up with the probability of what is cut
/// off, so that small updates are kept on average; 8-bit moments go to the nearest value of their map, and a second
/// moment never to 0.
///
/// - `w`, `g`: any shape, that of `moments`, f32 or bf16 each
/// - `copy`: the same shape, f32 or bf16, out: the new weights rounded to nearest; of f32 weights only
///
/// On CUDA the weights of a step with 8-bit moments are within a few units in the last place (of f32, before rounding)
/// of the CPU's; all else is the CPU's to the bit.
pub fn update(
    adamw: &AdamW,
    t: u32,
    rounding: Rounding,
    w: &mut Tensor,
    g: &Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
) -> Result {
    adamw.check(&Check::new("adamw", w), t)?;
    run(Source::Host(adamw.coefficients(t), t), rounding, w, g, moments, copy, None)
}

/// [`update`] with what stands in memory of the device, as [`step_from`](super::step_from).
pub fn update_from(
    state: &State,
    status: &Status,
    rounding: Rounding,
    w: &mut Tensor,
    g: &Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
) -> Result {
    let check = Check::new("adamw", w);
    state.check(&check)?;
    status.check(&check)?;
    run(Source::Device(state, status), rounding, w, g, moments, copy, None)
}

/// How many sums of squares an update of `len` weights may write, on any device.
pub(super) fn sums(len: usize) -> usize {
    len.div_ceil(EIGHTS)
}

/// Elements of a block of `adamw.cu`; that of 8-bit moments has more.
const EIGHTS: usize = 256 * 8;

/// See [`update`]. The squares of the gradient, summed in parts, are added to `squares[..sums(w.len())]`.
pub(super) fn run(
    source: Source,
    rounding: Rounding,
    w: &mut Tensor,
    g: &Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
    squares: Option<&mut Tensor>,
) -> Result {
    let check = Check::new("adamw", w);
    check.tensor("g", g, w.shape(), FLOAT)?;
    self::check(&check, w, moments, copy.as_deref(), squares.as_deref())?;
    match check.device() {
        Device::Cpu => on_cpu(source, rounding, w, g, moments, copy, squares),
        Device::Cuda(gpu) if !w.is_empty() => {
            let (copy, squares) = (copy.as_deref(), squares.as_deref());
            Ok(gpu.launch(&super::cuda::update(gpu, source, rounding, w, g, moments, copy, squares)?)?)
        }
        Device::Cuda(_) => Ok(()),
    }
}

/// All of an update's tensors but the gradient.
pub(super) fn check(
    check: &Check,
    w: &Tensor,
    moments: &Moments,
    copy: Option<&Tensor>,
    squares: Option<&Tensor>,
) -> Result {
    check.dtype("w", w, FLOAT)?;
    check.tensor("moments", &moments.first, w.shape(), Allowed::Only(moments.first.dtype()))?;
    if let Some(blocks) = &moments.blocks {
        check.tensor("absmax", &blocks.first, &[w.len().div_ceil(BLOCK)], F32)?;
        check.dtype("tables", &blocks.tables, U32)?;
    }
    if let Some(copy) = copy {
        check.tensor("copy", copy, w.shape(), FLOAT)?;
        check.value(w.dtype() == DType::F32, || "a copy of bf16 weights: they are read as they are".into())?;
    }
    squares.map_or(Ok(()), |squares| check_squares(check, w, squares))
}

pub(super) fn check_squares(check: &Check, w: &Tensor, squares: &Tensor) -> Result {
    check.tensor("squares", squares, &[squares.len()], F32)?;
    let needed = sums(w.len());
    check.value(squares.len() >= needed, || format!("{needed} sums of squares, and room for {}", squares.len()))
}

fn on_cpu(
    source: Source,
    rounding: Rounding,
    w: &mut Tensor,
    g: &Tensor,
    moments: &mut Moments,
    copy: Option<&mut Tensor>,
    squares: Option<&mut Tensor>,
) -> Result {
    let Some((coefficients, clip, number)) = source.read()? else { return Ok(()) };
    if let Some(squares) = squares {
        with_float!(g.dtype(), G => cpu::add_squares::<G>(g.as_slice()?, squares.as_mut_slice()?));
    }
    let step = cpu::Step { coefficients, clip, number, rounding };
    let Moments { first, second, blocks } = moments;
    if [&*w, g, first].iter().all(|t| t.dtype() == DType::F32) && blocks.is_none() {
        return super::on_cpu(&coefficients, clip, w, g, first, second, copy);
    }
    with_float!(w.dtype(), W => with_float!(g.dtype(), G => {
        let (w, g) = (w.as_mut_slice::<W>()?, g.as_slice::<G>()?);
        match blocks {
            Some(b) => cpu::blocks8(&step, w, g, first.as_mut_slice()?, second.as_mut_slice()?,
                b.first.as_mut_slice()?, b.second.as_mut_slice()?),
            None => with_float!(first.dtype(), S => {
                cpu::elements::<W, G, S>(&step, w, g, first.as_mut_slice()?, second.as_mut_slice()?)
            }),
        }
    }));
    if let Some(copy) = copy {
        let w = w.as_slice::<f32>()?;
        with_float!(copy.dtype(), T => crate::ops::float::store::<T>(w, copy.as_mut_slice()?, false));
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::super::cpu::update;
    use super::super::maps;
    use super::{BLOCK, Coefficients, Rounding};
    use crate::device::DType;
    use crate::ops::Float;
    use crate::ops::philox::philox;
    use rayon::prelude::*;

    /// Elements a task, a multiple of [`BLOCK`].
    const CHUNK: usize = 32 * BLOCK;

    /// What varies from step to step.
    #[derive(Clone, Copy, Debug)]
    pub struct Step {
        /// What AdamW multiplies with.
        pub coefficients: Coefficients,
        /// What the gradient is multiplied with.
        pub clip: f32,
        /// The step's number, for random bits.
        pub number: u32,
        /// What else random bits depend on.
        pub rounding: Rounding,
    }

    /// Which of a step's arrays is rounded: a different number for each makes different bits.
    #[derive(Clone, Copy)]
    enum Array {
        Weight = 1,
        First = 2,
        Second = 3,
    }

    impl Step {
        /// Stores values in elements `from`, `from + 1`, ... (`from` a multiple of eight) of an array.
        fn store<T: Float>(&self, array: Array, from: u64, values: &[f32], to: &mut [T]) {
            let halves = |x: u64| [x as u32, (x >> 32) as u32];
            for (i, (values, to)) in values.chunks(8).zip(to.chunks_mut(8)).enumerate() {
                if T::DTYPE == DType::F32 {
                    to.iter_mut().zip(values).for_each(|(to, &value)| *to = T::from_f32(value));
                    continue;
                }
                let [low, high] = halves(from / 8 + i as u64);
                let counter = [low, high | (array as u32) << 30, self.rounding.stream, self.number];
                let words = philox(counter, halves(self.rounding.seed));
                for (j, (to, value)) in to.iter_mut().zip(values).enumerate() {
                    let bits = if j % 2 == 0 { words[j / 2] & 0xffff } else { words[j / 2] >> 16 };
                    *to = T::from_f32(round_at_random(*value, bits));
                }
            }
        }
    }

    /// A bf16, as f32: away from zero with the probability of what is cut off.
    fn round_at_random(x: f32, sixteen_bits: u32) -> f32 {
        if x.is_nan() { x } else { f32::from_bits(x.to_bits().wrapping_add(sixteen_bits) & 0xffff_0000) }
    }

    /// Adds the sum of squares of each block of a gradient to its place.
    pub fn add_squares<G: Float>(g: &[G], squares: &mut [f32]) {
        squares.par_iter_mut().zip(g.par_chunks(super::EIGHTS)).for_each(|(square, g)| {
            *square += g.iter().map(|g| f64::from(g.to_f32()).powi(2)).sum::<f64>() as f32;
        });
    }

    fn widened<T: Float>(x: &[T]) -> Vec<f32> {
        x.iter().map(|x| x.to_f32()).collect()
    }

    /// See [`super::update`].
    pub fn elements<W: Float, G: Float, S: Float>(step: &Step, w: &mut [W], g: &[G], m: &mut [S], v: &mut [S]) {
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments).enumerate().for_each(|(i, ((w, g), (m, v)))| {
            let (mut w32, g32, mut m32, mut v32) = (widened(w), widened(g), widened(m), widened(v));
            update(&step.coefficients, step.clip, &mut w32, &g32, &mut m32, &mut v32);
            let from = (i * CHUNK) as u64;
            step.store(Array::Weight, from, &w32, w);
            step.store(Array::First, from, &m32, m);
            step.store(Array::Second, from, &v32, v);
        });
    }

    /// The same with moments of 8 bits.
    pub fn blocks8<W: Float, G: Float>(
        step: &Step,
        w: &mut [W],
        g: &[G],
        m: &mut [u8],
        v: &mut [u8],
        m_absmax: &mut [f32],
        v_absmax: &mut [f32],
    ) {
        let moments = m.par_chunks_mut(BLOCK).zip(m_absmax).zip(v.par_chunks_mut(BLOCK).zip(v_absmax));
        let all = w.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).zip(moments).enumerate();
        all.for_each(|(i, ((w, g), ((m, m_absmax), (v, v_absmax))))| {
            let (mut w32, g32) = (widened(w), widened(g));
            let [mut m32, mut v32] = [(&*m, maps::first(), &*m_absmax), (&*v, maps::second(), &*v_absmax)]
                .map(|(codes, map, absmax)| codes.iter().map(|&code| map[code as usize] * absmax).collect::<Vec<_>>());
            update(&step.coefficients, step.clip, &mut w32, &g32, &mut m32, &mut v32);
            step.store(Array::Weight, (i * BLOCK) as u64, &w32, w);
            *m_absmax = quantize(&m32, m, maps::encode_first);
            *v_absmax = quantize(&v32, v, maps::encode_second);
        });
    }

    /// The block's absmax, and the codes.
    fn quantize(values: &[f32], codes: &mut [u8], encode: fn(f32) -> u8) -> f32 {
        let absmax = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let inverse = if absmax >= f32::MIN_POSITIVE { 1.0 / absmax } else { 0.0 };
        codes.iter_mut().zip(values).for_each(|(code, v)| *code = encode(v * inverse));
        absmax
    }
}
