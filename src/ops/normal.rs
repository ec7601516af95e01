//! Normal values made where they are needed: weights of any size, for benchmarks and tests.
//!
//! Elements `4q` to `4q + 3` are two pairs of Box and Muller (1958): words `a` and `b` of [Philox's](super::philox)
//! counter `(q, stream, 2^32 - 1)` under the key `seed` give `sqrt(-2 ln u(a))` times the cosine and the sine of
//! `2 pi u(b)`, `u` being the word's upper 23 bits and a half, over 2^23. No value is beyond 5.8 in magnitude.
//!
//! # Cost and error
//!
//! - Cost: writes `b` bytes an element; about 60 instructions each.
//! - Error: 1e-6 against the same words in float64; a GPU within 1e-6 of the CPU.

use super::check::{Check, FLOAT};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// Which values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normal {
    /// Of all tensors.
    pub seed: u64,
    /// Tells tensors apart.
    pub stream: u32,
    /// Standard deviation.
    pub scale: f32,
}

/// Fills `y` (f32 or bf16, any shape) with normal values.
pub fn fill(normal: Normal, y: &mut Tensor) -> super::Result {
    let check = Check::new("normal", y);
    check.dtype("y", y, FLOAT)?;
    match check.device() {
        Device::Cpu => with_float!(y.dtype(), T => cpu::fill::<T>(normal, y.as_mut_slice()?)),
        Device::Cuda(_) if y.is_empty() => {}
        Device::Cuda(gpu) => gpu.launch(&cuda::fill(normal, y)?)?,
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::Normal;
    use crate::ops::Float;
    use crate::ops::params::KIUNGO_NORMAL_COUNTER;
    use crate::ops::philox::philox;
    use rayon::prelude::*;

    /// Elements a task.
    const CHUNK: usize = 4096;

    /// See [`super::fill`].
    pub fn fill<T: Float>(normal: Normal, y: &mut [T]) {
        y.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, y)| {
            for (i, four) in y.chunks_mut(4).enumerate() {
                let values = four_values(normal, (chunk * CHUNK / 4 + i) as u64);
                four.iter_mut().zip(values).for_each(|(y, value)| *y = T::from_f32(value));
            }
        });
    }

    fn four_values(normal: Normal, quad: u64) -> [f32; 4] {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let [low, high] = halves(quad);
        let [a, b, c, d] = philox([low, high, normal.stream, KIUNGO_NORMAL_COUNTER], halves(normal.seed));
        let ([x, y], [z, w]) = (box_muller(a, b, normal.scale), box_muller(c, d, normal.scale));
        [x, y, z, w]
    }

    fn box_muller(a: u32, b: u32, scale: f32) -> [f32; 2] {
        let uniform = |word: u32| ((word >> 9) as f32 + 0.5) / (1 << 23) as f32;
        let radius = (-2.0 * uniform(a).ln()).sqrt() * scale;
        let (sin, cos) = (std::f32::consts::TAU * uniform(b)).sin_cos();
        [radius * cos, radius * sin]
    }
}

mod cuda {
    use super::Normal;
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::NormalParams;

    pub fn fill(normal: Normal, y: &Tensor) -> Result<Launch> {
        let params = NormalParams {
            y: y.address()?,
            count: y.len() as u64,
            seed_low: normal.seed as u32,
            seed_high: (normal.seed >> 32) as u32,
            stream: normal.stream,
            scale: normal.scale,
        };
        Ok(eight_a_thread("normal", kernel_for!(y.dtype(), "normal"), y.len(), params))
    }
}
