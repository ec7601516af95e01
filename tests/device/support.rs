//! Drivers and cards that run no kernels.

use cudarc::driver::sys::CUresult;
use kiungo::device::cuda::support::{check, not_loaded};

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
    let said = |result| not_loaded("nf4", "Some card", &["sm_80", "sm_90a"], result, "words of the driver").to_string();
    let none = said(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert!(none.starts_with("this build has no kernels that Some card runs (it has sm_80, sm_90a"), "{none}");
    let other = said(CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(other, "loading kernels/nf4.cu: words of the driver");
}
