//! Whether a driver and a card run these kernels, in plain words where they do not.

use super::cards::version;
use crate::device::DeviceError;
use crate::device::error::failed;
use cudarc::driver::sys::CUresult;

/// The CUDA version the kernels are built for, as the driver counts (major * 1000 + minor * 10).
const CUDA_VERSION: i32 = 13000;

/// An error where the driver is too old, as it counts its versions, or the card.
pub fn check(driver: i32, name: &str, (major, minor): (i32, i32)) -> Result<(), DeviceError> {
    if driver < CUDA_VERSION {
        return Err(DeviceError::OldDriver { found: version(driver), needed: version(CUDA_VERSION) });
    }
    if major < 8 {
        return Err(DeviceError::OldCard { name: name.into(), major, minor });
    }
    Ok(())
}

/// What it means that a driver does not load a file of kernels, which is compiled for `targets`.
pub fn not_loaded(
    module: &str,
    card: &str,
    targets: &[&str],
    result: CUresult,
    message: impl std::fmt::Display,
) -> DeviceError {
    match result {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            DeviceError::NoKernelsForCard { card: card.into(), targets: targets.join(", ") }
        }
        _ => failed(format!("loading kernels/{module}.cu"), message),
    }
}
