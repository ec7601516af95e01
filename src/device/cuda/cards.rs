//! The GPUs of this machine, and its driver.

use crate::device::DeviceError;
use crate::device::error::failed;
use cudarc::driver::{CudaContext, result, sys};

/// The compute capability that has machine code of its own in this binary, with what only Hopper has.
pub const HOPPER: u32 = 90;

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory that nobody holds.
    pub free: usize,
    /// Bytes of its memory.
    pub total: usize,
}

/// Looks at device `ordinal`. Starts its context, and loads no kernel.
pub fn card(ordinal: usize) -> Result<Card, DeviceError> {
    device_count()?;
    let context = CudaContext::new(ordinal).map_err(|e| failed("cuDevicePrimaryCtxRetain", e))?;
    let name = context.name().map_err(|e| failed("cuDeviceGetName", e))?;
    let capability = context.compute_capability().map_err(|e| failed("cuDeviceGetAttribute", e))?;
    context.bind_to_thread().map_err(|e| failed("cuCtxSetCurrent", e))?;
    let (free, total) = result::mem_get_info().map_err(|e| failed("cuMemGetInfo", e))?;
    Ok(Card { name, capability, free, total })
}

/// The number of CUDA devices, or why none can be used.
pub fn device_count() -> Result<usize, DeviceError> {
    // SAFETY: only asks whether the library can be opened. Every other call panics without it.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDevice("libcuda.so, part of the NVIDIA driver, was not found".into()));
    }
    match CudaContext::device_count() {
        Ok(0) => Err(DeviceError::NoDevice("the driver reports no device".into())),
        Ok(n) => Ok(n as usize),
        Err(e) => Err(DeviceError::NoDevice(format!("the driver cannot start: {e}"))),
    }
}

/// The driver's CUDA version, as `major.minor`; an error where there is no driver.
pub fn driver_version() -> Result<String, DeviceError> {
    device_count()?;
    Ok(version(driver_version_number()?))
}

pub(super) fn driver_version_number() -> Result<i32, DeviceError> {
    let mut v = 0;
    // SAFETY: writes one int; the library is present (device_count asked).
    unsafe { sys::cuDriverGetVersion(&mut v) }.result().map_err(|e| failed("cuDriverGetVersion", e))?;
    Ok(v)
}

pub(super) fn version(v: i32) -> String {
    format!("{}.{}", v / 1000, v % 1000 / 10)
}
