//! Values as a checkpoint holds them (f32, f16 or bf16, little-endian) to those of a tensor, and whether all are finite.
//!
//! # Cost and error
//!
//! - Cost: reads the stored bytes and writes `b` an element.
//! - Error: none but the one rounding to bf16, to nearest, ties to even; all devices give the same bytes.

use super::check::{Check, FLOAT, U8, U32};
use super::float::with_float;
use crate::device::{DType, Device, DeviceError, Gpu, Tensor};

/// Element types of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

crate::words::words! { Stored: "element type" { F32 = "f32", F16 = "f16", Bf16 = "bf16" } }

impl Stored {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
        }
    }

    /// The least of a tensor's types that holds all its values.
    pub fn exact(self) -> DType {
        match self {
            Stored::Bf16 => DType::Bf16,
            Stored::F32 | Stored::F16 => DType::F32,
        }
    }
}

/// The number of the first value of each of some tensors that was not finite.
#[derive(Debug)]
pub struct Report(Tensor);

impl Report {
    /// For `count` tensors, of none of which a value has been seen.
    pub fn new(device: &Device, count: usize) -> Result<Report, DeviceError> {
        let mut cells = Tensor::uninitialized(device, DType::U32, &[count, 2])?;
        cells.fill_byte(0xFF)?;
        Ok(Report(cells))
    }

    /// The cell of one tensor, for launches of a GPU [beside](Gpu::beside): they must have ended when it is read.
    pub(crate) fn cell(&self, gpu: &Gpu, tensor: usize) -> Result<Report, DeviceError> {
        let address = self.0.address()? + (tensor * 2 * size_of::<u32>()) as u64;
        Ok(Report(Tensor::borrowed(gpu, address, DType::U32, &[1, 2])))
    }

    /// What was found, a tensor each; waits for the device.
    pub fn read(&self) -> Result<Vec<Option<u64>>, DeviceError> {
        let cells = self.0.to_vec::<u32>()?;
        let number = |cell: &[u32]| u64::from(cell[0]) | u64::from(cell[1]) << 32;
        Ok(cells.chunks_exact(2).map(number).map(|n| (n != u64::MAX).then_some(n)).collect())
    }

    fn note(&mut self, number: u64) -> Result<(), DeviceError> {
        let found = self.read()?.first().copied().flatten().map_or(number, |n| n.min(number));
        self.0.write(&[found as u32, (found >> 32) as u32])
    }
}

/// `y = x`, rounded to the type of `y`; what is not finite then is noted in `report`.
///
/// - `x`: `[count * stored.size()]`, u8
/// - `first`: the number of `x`'s first value in its tensor, for the report
/// - `y`: of `count` elements, f32 or bf16
/// - `report`: of one tensor
pub fn convert(x: &Tensor, stored: Stored, first: usize, y: &mut Tensor, report: &mut Report) -> super::Result {
    let check = Check::new("convert", x);
    check.dtype("y", y, FLOAT)?;
    check.tensor("x", x, &[y.len() * stored.size()], U8)?;
    check.tensor("report", &report.0, &[1, 2], U32)?;
    match check.device() {
        Device::Cpu => {
            let bytes = x.as_slice()?;
            let found = with_float!(y.dtype(), T => cpu::convert::<T>(stored, bytes, y.as_mut_slice()?));
            if let Some(at) = found {
                report.note((first + at) as u64)?;
            }
        }
        Device::Cuda(_) if y.is_empty() => {}
        Device::Cuda(gpu) => gpu.launch(&cuda::convert(x, stored, first, y, report)?)?,
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::Stored;
    use crate::ops::Float;
    use half::{bf16, f16};

    /// Fills `y` and returns the first of its values that is not finite.
    pub fn convert<T: Float>(stored: Stored, bytes: &[u8], y: &mut [T]) -> Option<usize> {
        match stored {
            Stored::F32 => decode(bytes, y, f32::from_le_bytes),
            Stored::F16 => decode(bytes, y, |b| f16::from_le_bytes(b).to_f32()),
            Stored::Bf16 => decode(bytes, y, |b| bf16::from_le_bytes(b).to_f32()),
        }
        first_not_finite(y)
    }

    fn decode<T: Float, const N: usize>(bytes: &[u8], y: &mut [T], widen: impl Fn([u8; N]) -> f32) {
        for (y, bytes) in y.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *y = T::from_f32(widen(*bytes));
        }
    }

    /// The first value that is NaN or infinite.
    pub fn first_not_finite<T: Float>(values: &[T]) -> Option<usize> {
        // The search stops early and cannot be vectorised; the check before it can, and takes a third of the time.
        let finite = |v: &T| v.to_f32().is_finite();
        let all = values.iter().fold(true, |all, v| all & finite(v));
        if all { None } else { values.iter().position(|v| !finite(v)) }
    }
}

mod cuda {
    use super::{Report, Stored};
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::eight_a_thread;
    use crate::ops::params::ConvertParams;

    pub fn convert(x: &Tensor, stored: Stored, first: usize, y: &Tensor, report: &Report) -> Result<Launch> {
        let kernel = match stored {
            Stored::F32 => kernel_for!(y.dtype(), "convert_f32"),
            Stored::F16 => kernel_for!(y.dtype(), "convert_f16"),
            Stored::Bf16 => kernel_for!(y.dtype(), "convert_bf16"),
        };
        let params = ConvertParams {
            x: x.address()?,
            y: y.address()?,
            count: y.len() as u64,
            first: first as u64,
            report: report.0.address()?,
        };
        Ok(eight_a_thread("convert", kernel, y.len(), params))
    }
}
