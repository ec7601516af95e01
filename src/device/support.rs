//! Whether a driver and a card run these kernels, in plain words where they do not.

use super::DeviceError;
use super::cuda::{failed, targets, version};
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

/// What it means that a driver does not load a file of kernels.
pub fn not_loaded(module: &str, card: &str, result: CUresult, message: impl std::fmt::Display) -> DeviceError {
    match result {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            DeviceError::NoKernelsForCard { card: card.into(), targets: targets().join(", ") }
        }
        _ => failed(format!("loading kernels/{module}.cu"), message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_no_kernels_is_told_why() {
        let said = |driver, capability| check(driver, "Some card", capability).unwrap_err().to_string();
        assert!(check(13000, "Some card", (8, 0)).is_ok() && check(13020, "Some card", (12, 0)).is_ok());
        assert_eq!(
            said(12080, (9, 0)),
            "the NVIDIA driver supports CUDA 12.8, and these kernels need 13.0: update the driver"
        );
        let old = "Some card has compute capability 7.5; the kernels need 8.0 (A100, RTX 30) or newer";
        assert_eq!(said(13000, (7, 5)), old);
        let said = |result| not_loaded("nf4", "Some card", result, "words of the driver").to_string();
        let none = said(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert!(none.starts_with("this build has no kernels that Some card runs (it has "), "{none}");
        let other = said(CUresult::CUDA_ERROR_INVALID_IMAGE);
        assert_eq!(other, "loading kernels/nf4.cu: words of the driver");
    }
}
