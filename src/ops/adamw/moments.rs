//! AdamW with moments, weights and gradients of fewer bits.

use super::{AdamW, Coefficients, Source};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::Result;
use crate::ops::check::{Allowed, Check, F32, FLOAT, U8};
use crate::ops::float::with_float;
use crate::ops::params::KIUNGO_ADAMW_BLOCK;
use crate::ops::step::{State, Status};

/// Elements of an 8-bit moment that share an exponent.
pub const BLOCK: usize = KIUNGO_ADAMW_BLOCK as usize;

/// What the moments of a parameter are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bytes a weight.
    #[default]
    F32,
    /// 4 bytes a weight, rounded at random.
    Bf16,
    /// 2 bytes a weight and 2 for each [`BLOCK`]: a float of 8 bits each, beside a block's [exponent](super::codes).
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
                let blocks = shape.iter().product::<usize>().div_ceil(BLOCK);
                let exponents = || Tensor::zeros(device, DType::U8, &[blocks]);
                Some(Blocks { first: exponents()?, second: exponents()? })
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
            Precision::Blocks8 => 2 * (count + count.div_ceil(BLOCK)),
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

    /// All that changes from step to step: the first and the second moment, and of 8-bit ones the exponents of the blocks of
    /// each, `[ceil(elements / 128)]` u8.
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
/// off, so that small updates are kept on average, and so are 8-bit second moments, which never go to 0; 8-bit first moments
/// are rounded to nearest.
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
        check.tensor("exponents", &blocks.first, &[w.len().div_ceil(BLOCK)], U8)?;
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
    use super::super::codes;
    use super::super::cpu::update;
    use super::{BLOCK, Coefficients, Rounding};
    use crate::device::DType;
    use crate::ops::Float;
    use crate::ops::philox::{philox, philox_of};
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

    /// Eight elements and those of the same place in the block's other half share four random words.
    const HALF: usize = BLOCK / 2;
    const GROUPS: usize = HALF / 8;
    /// By which a block of zeros may be divided.
    const LEAST_EPS: f32 = f32::from_bits((127 - 100) << 23);

    /// The same with moments of 8 bits.
    pub fn blocks8<W: Float, G: Float>(
        step: &Step,
        w: &mut [W],
        g: &[G],
        m: &mut [u8],
        v: &mut [u8],
        m_exponents: &mut [u8],
        v_exponents: &mut [u8],
    ) {
        let arch = pulp::Arch::new();
        let moments = m.par_chunks_mut(BLOCK).zip(m_exponents).zip(v.par_chunks_mut(BLOCK).zip(v_exponents));
        let all = w.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).zip(moments).enumerate();
        all.for_each(|(block, ((w, g), ((m, m_exponent), (v, v_exponent))))| {
            arch.dispatch(
                #[inline(always)]
                || step.block8(block, w, g, m, v, m_exponent, v_exponent),
            )
        });
    }

    fn largest(values: &[f32]) -> f32 {
        values.iter().fold(0.0f32, |most, v| most.max(v.abs()))
    }

    impl Step {
        #[inline(always)]
        #[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
        fn block8<W: Float, G: Float>(
            &self,
            block: usize,
            w: &mut [W],
            g: &[G],
            m: &mut [u8],
            v: &mut [u8],
            m_exponent: &mut u8,
            v_exponent: &mut u8,
        ) {
            let c = &self.coefficients;
            let words: [[u32; 4]; GROUPS] = std::array::from_fn(|i| self.words8((block * GROUPS + i) as u64));
            // Of element j: the byte of its number in its word, or in another word, and the bytes below, cyclically.
            let random = |j: usize, other: usize| {
                let word = j / HALF * 2 + j % 8 / 4;
                words[j % HALF / 8][word ^ other].rotate_left(24 - 8 * (j as u32 % 4))
            };
            let (gradient, root_square) = (c.gradient * self.clip, c.square.sqrt() * self.clip);
            let m_scale = codes::first_scale(*m_exponent) * (1.0 - c.gradient);
            let (mut m32, mut v32) = ([0.0; BLOCK], [0.0; BLOCK]);
            for (j, (w, g)) in w.iter_mut().zip(g).enumerate() {
                // One that is not finite, or its square, reaches no weight.
                let g = g.to_f32();
                let g = if (g * g).is_finite() { g } else { 0.0 };
                let root = g * root_square;
                m32[j] = codes::e4m3_value(m[j]).mul_add(m_scale, g * gradient);
                v32[j] = root.mul_add(root, codes::second_value(v[j], *v_exponent) * c.beta2);
                let denominator = v32[j].sqrt() / c.root_correction + c.eps.max(LEAST_EPS);
                let new = w.to_f32() * c.decay - c.step_size * m32[j] / denominator;
                *w = W::from_f32(if W::DTYPE == DType::F32 { new } else { round_at_random(new, random(j, 0) >> 16) });
            }
            *m_exponent = codes::first_exponent(largest(&m32));
            *v_exponent = codes::second_exponent(largest(&v32));
            for (j, (m, v)) in m.iter_mut().zip(v).enumerate() {
                *m = codes::first_code(m32[j], *m_exponent);
                *v = codes::second_code(v32[j], *v_exponent, random(j, 2) >> 8);
            }
        }

        /// The random words of the `i`-th eight of all blocks, and of its partner.
        fn words8(&self, i: u64) -> [u32; 4] {
            let halves = |x: u64| [x as u32, (x >> 32) as u32];
            let [low, high] = halves(i);
            let counter = [low, high | (Array::Weight as u32) << 30, self.rounding.stream, self.number];
            philox_of(7, counter, halves(self.rounding.seed))
        }
    }
}
