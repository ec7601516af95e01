//! The residual stream: `x += y`.
//!
//! # Cost and error
//!
//! - Cost: `3 * b` bytes and an addition an element.
//! - Error: one rounding; a GPU gives the CPU's bytes.

use super::check::{Check, FLOAT};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// `x += y`, element by element.
///
/// - `x`, `y`: any shape, f32 or bf16, the same of both
///
/// The gradient passes to both as it is, so there is no backward function.
pub fn add(x: &mut Tensor, y: &Tensor) -> super::Result {
    let check = Check::new("residual", y);
    check.dtype("y", y, FLOAT)?;
    check.like("x", x, y)?;
    match check.device() {
        Device::Cpu => with_float!(y.dtype(), T => cpu::add::<T>(x.as_mut_slice()?, y.as_slice()?)),
        Device::Cuda(gpu) if !y.is_empty() => gpu.launch(&cuda::add(x, y)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use crate::ops::Float;
    use rayon::prelude::*;

    /// Elements a task.
    const CHUNK: usize = 8192;

    /// See [`super::add`].
    pub fn add<T: Float>(x: &mut [T], y: &[T]) {
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| {
            for (x, y) in x.iter_mut().zip(y) {
                *x = T::from_f32(x.to_f32() + y.to_f32());
            }
        });
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::ResidualParams;

    pub fn add(x: &Tensor, y: &Tensor) -> Result<Launch> {
        let params = ResidualParams { x: x.address()?, y: y.address()?, count: y.len() as u64 };
        Ok(eight_a_thread("residual", kernel_for!(y.dtype(), "residual_add"), y.len(), params))
    }
}
