//! The 4-bit NormalFloat type (Dettmers et al. 2023, arXiv 2305.14314), bit for bit as bitsandbytes stores it.
//!
//! A tensor is cut row by row into blocks of 64 values. A value becomes the number of [`THRESHOLDS`] below
//! `value * (1 / absmax)`, `absmax` being the largest magnitude of its block. Two codes share a byte, the first in
//! the high half. Dequantised, a value is `LEVELS[code] * absmax`, one f32 product, rounded to bf16.
//!
//! Double quantisation stores `absmax` less its mean over the tensor in 8 bits: blocks of 256, a map of 256 levels
//! and one f32 scale a block. The map of a file is read from the file; [`dynamic_map`] makes the usual one.
//!
//! A block of zeros gets code 0, as bitsandbytes gives it on CUDA (on the CPU it gives 7). Either dequantises to 0, but
//! not under double quantisation, where the decoded absmax of such a block need not be 0: there code 0 gives its
//! negative. That is what bitsandbytes on CUDA computes too; pretrained weights have no such blocks.
//!
//! # Cost and error
//!
//! - Cost: dequantising reads 0.5 bytes a value and 4 a block of 64 (double: 1, and 4 a 256 blocks), and writes `b`
//!   a value; quantising reads `b` and writes as many. One product and one look-up a value.
//! - Error: none: codes, scales and dequantised values are those of bitsandbytes to the bit, on both devices. The
//!   mean of the scales under double quantisation is exact and rounded once; torch sums it in f32, and may be an
//!   ulp off.
//!
//! # Example
//!
//! ```
//! use kiungo::device::{Device, Tensor};
//! use kiungo::ops::nf4::{Nf4Tensor, dequantize};
//!
//! let values: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 32.0).collect();
//! let x = Tensor::from_slice(&Device::Cpu, &values, &[1, 64])?;
//! let quantized = Nf4Tensor::quantize(&x, false)?;
//! assert_eq!(quantized.bytes(), 32 + 4);
//! let mut y = Tensor::from_slice(&Device::Cpu, &[0.0f32; 64], &[1, 64])?;
//! dequantize(&quantized, &mut y)?;
//! assert_eq!(y.as_slice::<f32>()?[0], -1.0);
//! # Ok::<(), kiungo::ops::OpError>(())
//! ```

use super::check::{Check, F32, FLOAT, U8};
use super::float::with_float;
use super::params::{KIUNGO_NF4_BLOCK, KIUNGO_NF4_NESTED_BLOCK};
use crate::device::{DType, Device, Tensor};

/// Values that share an absmax.
pub const BLOCK: usize = KIUNGO_NF4_BLOCK as usize;
/// Absmax values that share a second-level scale.
pub const NESTED_BLOCK: usize = KIUNGO_NF4_NESTED_BLOCK as usize;

/// What the 16 codes stand for.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A value's code is the number of these that it exceeds. Not quite midpoints: bitsandbytes writes them out, with more
/// digits than f32 has, and these are the values that nvcc makes of them.
pub const THRESHOLDS: [f32; 15] = [
    -0.848_096_43,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_4,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_254,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// A quantised matrix.
#[derive(Debug)]
pub struct Nf4Tensor {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// `[out * in / 2]`, u8: two codes a byte.
    pub codes: Tensor,
    /// What the codes are multiplied with.
    pub scales: Scales,
}

/// The scales of blocks, in row-major order of the values.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a model holds a few hundred")]
pub enum Scales {
    /// As they are.
    Plain {
        /// `[blocks]`, f32.
        absmax: Tensor,
    },
    /// In 8 bits: `absmax[i] = map[codes[i]] * nested[i / 256] + offset`, two roundings.
    Double {
        /// `[blocks]`, u8.
        codes: Tensor,
        /// `[ceil(blocks / 256)]`, f32.
        nested: Tensor,
        /// `[256]`, f32.
        map: Tensor,
        /// `[1]`, f32.
        offset: Tensor,
    },
}

impl Nf4Tensor {
    /// Room for a matrix of `shape` on a device, with undefined codes and scales. `out * in` must be a multiple of 64.
    pub fn empty(device: &Device, shape: [usize; 2], double: bool) -> super::Result<Nf4Tensor> {
        let values = shape[0] * shape[1];
        if values == 0 || !values.is_multiple_of(BLOCK) {
            let expected = format!("a number of values that is a multiple of {BLOCK}");
            return Err(super::OpError::Shape { op: "nf4", tensor: "weight", expected, found: shape.to_vec() });
        }
        let blocks = values / BLOCK;
        let room = |dtype, n: usize| Tensor::uninitialized(device, dtype, &[n]);
        let scales = match double {
            false => Scales::Plain { absmax: room(DType::F32, blocks)? },
            true => Scales::Double {
                codes: room(DType::U8, blocks)?,
                nested: room(DType::F32, blocks.div_ceil(NESTED_BLOCK))?,
                map: Tensor::from_slice(device, &dynamic_map(), &[256])?,
                offset: room(DType::F32, 1)?,
            },
        };
        Ok(Nf4Tensor { shape, codes: room(DType::U8, values / 2)?, scales })
    }

    /// Quantises a matrix. See [`quantize`].
    pub fn quantize(x: &Tensor, double: bool) -> super::Result<Nf4Tensor> {
        let (rows, columns) = Check::new("nf4", x).matrix("x", x)?;
        let mut quantized = Nf4Tensor::empty(&x.device(), [rows, columns], double)?;
        quantize(x, &mut quantized)?;
        Ok(quantized)
    }

    /// Bytes of codes and scales of so many values.
    pub fn bytes_for(values: usize, double: bool) -> usize {
        let blocks = values / BLOCK;
        let nested = blocks.div_ceil(NESTED_BLOCK) + 256 + 1;
        values / 2 + if double { blocks + nested * size_of::<f32>() } else { blocks * size_of::<f32>() }
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.tensors().into_iter().map(Tensor::bytes).sum()
    }

    /// Codes and scales.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match &self.scales {
            Scales::Plain { absmax } => vec![&self.codes, absmax],
            Scales::Double { codes, nested, map, offset } => vec![&self.codes, codes, nested, map, offset],
        }
    }

    /// The whole matrix on the host, exact: `LEVELS[code] * absmax` in f32. For tests and merges.
    pub fn to_f32(&self) -> super::Result<Vec<f32>> {
        let mut exact = Tensor::zeros(&self.codes.device(), DType::F32, &self.shape)?;
        dequantize_exact(self, &mut exact)?;
        Ok(exact.to_vec()?)
    }

    pub(crate) fn check(&self, check: &Check) -> super::Result<usize> {
        let values = self.shape[0] * self.shape[1];
        let blocks = values / BLOCK;
        check.value(values > 0 && values.is_multiple_of(BLOCK), || {
            format!("{:?} is no shape of whole blocks of {BLOCK} values", self.shape)
        })?;
        check.tensor("codes", &self.codes, &[values / 2], U8)?;
        match &self.scales {
            Scales::Plain { absmax } => check.tensor("absmax", absmax, &[blocks], F32)?,
            Scales::Double { codes, nested, map, offset } => {
                check.tensor("absmax codes", codes, &[blocks], U8)?;
                check.tensor("nested absmax", nested, &[blocks.div_ceil(NESTED_BLOCK)], F32)?;
                check.tensor("map", map, &[256], F32)?;
                check.tensor("offset", offset, &[1], F32)?;
            }
        }
        Ok(values)
    }
}

/// Quantises `x` into `out`, whose scales say whether they are quantised too; on a GPU that takes
/// `2048 + 4 * blocks` bytes of the [workspace](crate::device::Gpu::reserve).
///
/// - `x`: `[out, in]`, f32 or bf16
pub fn quantize(x: &Tensor, out: &mut Nf4Tensor) -> super::Result {
    let check = Check::new("nf4 quantize", x);
    check.tensor("x", x, &out.shape, FLOAT)?;
    out.check(&check)?;
    match check.device() {
        Device::Cpu => {
            let codes = out.codes.as_mut_slice()?;
            let absmax = with_float!(x.dtype(), T => cpu::quantize::<T>(x.as_slice()?, codes));
            match &mut out.scales {
                Scales::Plain { absmax: to } => to.write(&absmax)?,
                Scales::Double { codes, nested, map, offset } => {
                    let (codes, nested) = (codes.as_mut_slice()?, nested.as_mut_slice()?);
                    let mean = cpu::quantize_absmax(&absmax, map.as_slice()?, codes, nested);
                    offset.write(&[mean])?;
                }
            }
            Ok(())
        }
        Device::Cuda(gpu) => cuda::quantize(gpu, x, out),
    }
}

/// The second half of [`quantize`] for a weight whose codes came in parts: its absmax values become `out`'s scales.
/// Double quantisation on a GPU takes 2048 bytes of the workspace.
///
/// - `absmax`: `[out * in / 64]`, f32
pub fn quantize_absmax(absmax: &Tensor, out: &mut Nf4Tensor) -> super::Result {
    let check = Check::new("nf4 quantize", absmax);
    let blocks = out.check(&check)? / BLOCK;
    check.tensor("absmax", absmax, &[blocks], F32)?;
    match (&mut out.scales, check.device()) {
        (Scales::Plain { absmax: to }, _) => Ok(to.copy_from(absmax)?),
        (Scales::Double { codes, nested, map, offset }, Device::Cpu) => {
            let (codes, nested) = (codes.as_mut_slice()?, nested.as_mut_slice()?);
            Ok(offset.write(&[cpu::quantize_absmax(absmax.as_slice()?, map.as_slice()?, codes, nested)])?)
        }
        (scales, Device::Cuda(gpu)) => {
            let partials = gpu.workspace(cuda::PARTIALS_BYTES)?;
            cuda::quantize_absmax(gpu, absmax.address()?, blocks, partials, scales)
        }
    }
}

/// `y = bf16(LEVELS[code] * absmax)`, in bf16, or widened again to f32.
///
/// - `y`: `[out, in]`, f32 or bf16
pub fn dequantize(x: &Nf4Tensor, y: &mut Tensor) -> super::Result {
    run(x, y, false)
}

/// `y = LEVELS[code] * absmax` without the rounding to bf16, as bitsandbytes dequantises to f32.
///
/// - `y`: `[out, in]`, f32
pub fn dequantize_exact(x: &Nf4Tensor, y: &mut Tensor) -> super::Result {
    Check::new("nf4 dequantize", &x.codes).dtype("y", y, F32)?;
    run(x, y, true)
}

fn run(x: &Nf4Tensor, y: &mut Tensor, exact: bool) -> super::Result {
    let check = Check::new("nf4 dequantize", &x.codes);
    x.check(&check)?;
    check.tensor("y", y, &x.shape, FLOAT)?;
    match check.device() {
        Device::Cpu => {
            let decoded;
            let absmax = match &x.scales {
                Scales::Plain { absmax } => absmax.as_slice()?,
                Scales::Double { codes, nested, map, offset } => {
                    let offset = offset.as_slice::<f32>()?[0];
                    decoded = cpu::dequantize_absmax(codes.as_slice()?, nested.as_slice()?, map.as_slice()?, offset);
                    &decoded
                }
            };
            let codes = x.codes.as_slice()?;
            with_float!(y.dtype(), T => cpu::dequantize::<T>(codes, absmax, exact, y.as_mut_slice()?));
            Ok(())
        }
        Device::Cuda(gpu) => Ok(gpu.launch(&cuda::dequantize(x, y, exact)?)?),
    }
}

/// The 256 levels of bitsandbytes' signed 8-bit type with a dynamic exponent (Dettmers 2015, arXiv 1511.04561).
///
/// Seven exponents: for `i` in 0..7, the means of neighbours in `2^i + 1` points from 0.1 to 1, times `10^(i - 6)`,
/// of both signs; and 0 and 1. All in f32, as torch computes them.
pub fn dynamic_map() -> [f32; 256] {
    let mut levels = vec![0.0f32, 1.0];
    for i in 0..7 {
        let points = linspace(0.1, 1.0, (1 << i) + 1);
        let factor = 10f64.powi(i - 6) as f32;
        for pair in points.windows(2) {
            let level = factor * ((pair[0] + pair[1]) / 2.0);
            levels.extend([level, -level]);
        }
    }
    levels.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.copy_from_slice(&levels);
    map
}

/// torch's: from both ends to the middle, with fused multiply-adds.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    let point = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - 1 - i) as f32, end),
    };
    (0..count).map(point).collect()
}

/// The reference.
pub mod cpu {
    use super::{BLOCK, LEVELS, NESTED_BLOCK, THRESHOLDS};
    use crate::ops::Float;
    use half::bf16;
    use rayon::prelude::*;

    fn code(x: f32) -> u8 {
        // NaN, from a block of zeros, exceeds nothing.
        THRESHOLDS.iter().map(|&t| u8::from(x > t)).sum()
    }

    /// Writes the codes and returns the absmax of each block.
    pub fn quantize<T: Float>(x: &[T], codes: &mut [u8]) -> Vec<f32> {
        let blocks = x.par_chunks(BLOCK).zip(codes.par_chunks_mut(BLOCK / 2));
        let block = |(x, codes): (&[T], &mut [u8])| {
            let absmax = x.iter().map(|v| v.to_f32().abs()).fold(0.0, f32::max);
            let reciprocal = 1.0 / absmax;
            for (pair, byte) in x.chunks(2).zip(codes) {
                *byte = code(pair[0].to_f32() * reciprocal) << 4 | code(pair[1].to_f32() * reciprocal);
            }
            absmax
        };
        blocks.map(block).collect()
    }

    /// Quantises absmax values less their mean, which is returned.
    pub fn quantize_absmax(absmax: &[f32], map: &[f32], codes: &mut [u8], nested: &mut [f32]) -> f32 {
        let mean = (absmax.iter().map(|&v| f64::from(v)).sum::<f64>() / absmax.len() as f64) as f32;
        let blocks = absmax.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK)).zip(nested);
        for ((absmax, codes), nested) in blocks {
            let values = absmax.iter().map(|v| v - mean);
            *nested = values.clone().map(f32::abs).fold(0.0, f32::max);
            let reciprocal = 1.0 / *nested;
            for (code, value) in codes.iter_mut().zip(values) {
                *code = nearest(map, value * reciprocal);
            }
        }
        mean
    }

    /// The index of the level nearest to `x`, as bitsandbytes searches it: midpoints in f32, ties to the pivot.
    fn nearest(map: &[f32], x: f32) -> u8 {
        let (mut pivot, mut above, mut below) = (127usize, 255usize, 0usize);
        for step in [64, 32, 16, 8, 4, 2, 1] {
            if x > map[pivot] {
                below = pivot;
                pivot += step;
            } else {
                above = pivot;
                pivot -= step;
            }
        }
        let (upper, lower, value) = (map[above], map[below], map[pivot]);
        let chosen = match x > value {
            true if x > (upper + value) * 0.5 => above,
            false if x < (lower + value) * 0.5 => below,
            _ => pivot,
        };
        chosen as u8
    }

    /// `map[code] * nested + offset`, rounded after each.
    pub fn dequantize_absmax(codes: &[u8], nested: &[f32], map: &[f32], offset: f32) -> Vec<f32> {
        let blocks = codes.chunks(NESTED_BLOCK).zip(nested);
        blocks.flat_map(|(codes, nested)| codes.iter().map(move |&c| map[c as usize] * nested + offset)).collect()
    }

    /// `LEVELS[code] * absmax`, exact in f32 or rounded to bf16.
    pub fn dequantize<T: Float>(codes: &[u8], absmax: &[f32], exact: bool, y: &mut [T]) {
        let blocks = y.par_chunks_mut(BLOCK).zip(codes.par_chunks(BLOCK / 2)).zip(absmax);
        blocks.for_each(|((y, codes), absmax)| {
            let levels = LEVELS.map(|level| {
                let value = level * absmax;
                if exact { value } else { bf16::from_f32(value).to_f32() }
            });
            for (pair, byte) in y.chunks_mut(2).zip(codes) {
                pair[0] = T::from_f32(levels[usize::from(byte >> 4)]);
                pair[1] = T::from_f32(levels[usize::from(byte & 15)]);
            }
        });
    }
}

mod cuda {
    use super::{BLOCK, NESTED_BLOCK, Nf4Tensor, Scales};
    use crate::device::{DType, Gpu, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::params::{Nf4DequantizeParams, Nf4DoubleParams, Nf4QuantizeParams};

    const THREADS: u32 = 256;
    /// Blocks that sum the absmax values, and sums that they leave, f64.
    const PARTIALS: usize = 256;
    /// Their bytes.
    pub const PARTIALS_BYTES: usize = PARTIALS * size_of::<f64>();

    pub fn quantize(gpu: &Gpu, x: &Tensor, out: &Nf4Tensor) -> Result {
        let (values, blocks) = (x.len(), x.len() / BLOCK);
        // Under double quantisation the absmax values are passed on in the workspace, behind the partial sums.
        let (partials, absmax) = match &out.scales {
            Scales::Plain { absmax } => (0, absmax.address()?),
            Scales::Double { .. } => {
                let partials = gpu.workspace(PARTIALS_BYTES + blocks * size_of::<f32>())?;
                (partials, partials + PARTIALS_BYTES as u64)
            }
        };
        let params = Nf4QuantizeParams { x: x.address()?, codes: out.codes.address()?, absmax, count: values as u64 };
        let grid = [values.div_ceil(16 * THREADS as usize) as u32, 1, 1];
        gpu.launch(&Launch::new("nf4", kernel_for!(x.dtype(), "nf4_quantize"), grid, THREADS, params))?;
        quantize_absmax(gpu, absmax, blocks, partials, &out.scales)
    }

    /// From the absmax values at an address, with room for the partial sums at another. Plain scales are those values.
    pub fn quantize_absmax(gpu: &Gpu, absmax: u64, blocks: usize, partials: u64, scales: &Scales) -> Result {
        let Scales::Double { codes, nested, map, offset } = scales else { return Ok(()) };
        let params = Nf4DoubleParams {
            absmax,
            partials,
            map: map.address()?,
            codes: codes.address()?,
            nested_absmax: nested.address()?,
            offset: offset.address()?,
            blocks: blocks as u64,
        };
        gpu.launch(&Launch::new("nf4", "nf4_sum_absmax", [PARTIALS as u32, 1, 1], THREADS, params))?;
        let grid = [blocks.div_ceil(NESTED_BLOCK) as u32, 1, 1];
        Ok(gpu.launch(&Launch::new("nf4", "nf4_quantize_absmax", grid, THREADS, params))?)
    }

    pub fn dequantize(x: &Nf4Tensor, y: &Tensor, exact: bool) -> Result<Launch> {
        let mut params = Nf4DequantizeParams {
            codes: x.codes.address()?,
            y: y.address()?,
            count: y.len() as u64,
            ..Default::default()
        };
        let double = match &x.scales {
            Scales::Plain { absmax } => {
                params.absmax = absmax.address()?;
                false
            }
            Scales::Double { codes, nested, map, offset } => {
                params.absmax = nested.address()?;
                params.scale_codes = codes.address()?;
                params.map = map.address()?;
                params.offset = offset.address()?;
                true
            }
        };
        let kernel = match (double, exact, y.dtype()) {
            (false, true, _) => "nf4_dequantize_exact",
            (false, false, DType::Bf16) => "nf4_dequantize_bf16",
            (false, false, _) => "nf4_dequantize_f32",
            (true, true, _) => "nf4_dequantize_double_exact",
            (true, false, DType::Bf16) => "nf4_dequantize_double_bf16",
            (true, false, _) => "nf4_dequantize_double_f32",
        };
        let grid = [y.len().div_ceil(32 * THREADS as usize) as u32, 1, 1];
        Ok(Launch::new("nf4", kernel, grid, THREADS, params))
    }
}
