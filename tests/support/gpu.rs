//! Where CUDA kernels are tested, and how close they must come.

use super::relative_error;
use crate::emulator::{self, Emulator};
use kiungo::device::cuda::Driver;
use kiungo::device::{Device, DeviceError, Executor, Gpu};
use std::sync::{Mutex, Once};

/// What CUDA kernels are tested on: the emulator, and the GPU where there is one.
///
/// Says once what is missing. `KIUNGO_REQUIRE_GPU=1` makes a missing GPU an error.
pub fn gpus() -> Vec<Device> {
    static SAID: Once = Once::new();
    let gpu = driver().map(|driver| Device::Cuda(Gpu::new(driver)));
    match &gpu {
        Err(why) if std::env::var_os("KIUNGO_REQUIRE_GPU").is_some() => panic!("KIUNGO_REQUIRE_GPU is set: {why}"),
        _ => SAID.call_once(|| {
            if let Some(why) = emulator::unavailable() {
                eprintln!("skipped: emulated kernels: {why}");
            }
            if let Err(why) = &gpu {
                eprintln!("skipped: no GPU: {why}");
            }
        }),
    }
    let emulator = emulator::unavailable().is_none().then(|| Device::Cuda(Gpu::new(Emulator::new())));
    emulator.into_iter().chain(gpu).collect()
}

/// A stream of the first GPU. A sanitizer instruments kernels whenever they are loaded, which takes longer than most tests:
/// under it all streams share what the first has loaded.
fn driver() -> Result<Driver, DeviceError> {
    static FIRST: Mutex<Option<Driver>> = Mutex::new(None);
    if !under_sanitizer() {
        return Driver::new(0);
    }
    let mut first = FIRST.lock().unwrap_or_else(|e| e.into_inner());
    if first.is_none() {
        *first = Some(Driver::new(0)?);
    }
    let first = first.as_ref().unwrap();
    first.beside(first.stream().unwrap().context().new_stream().unwrap())
}

/// The executors below [`gpus`], for tests that put something between.
pub fn executors() -> Vec<Box<dyn Executor>> {
    let executor = |device: Device| -> Box<dyn Executor> {
        if is_emulator(&device) { Box::new(Emulator::new()) } else { Box::new(driver().unwrap()) }
    };
    gpus().into_iter().map(executor).collect()
}

/// True under compute-sanitizer, which makes kernels many times slower: `KIUNGO_SANITIZER` is set there.
pub fn under_sanitizer() -> bool {
    std::env::var_os("KIUNGO_SANITIZER").is_some()
}

/// Those that run large shapes in a test's time: the emulator does not, nor a GPU under a sanitizer.
pub fn fast_gpus() -> Vec<Device> {
    if under_sanitizer() {
        return vec![];
    }
    gpus().into_iter().filter(|device| !is_emulator(device)).collect()
}

/// True for the emulator, which is slow: keep its shapes small.
pub fn is_emulator(device: &Device) -> bool {
    matches!(device, Device::Cuda(gpu) if gpu.name() == "emulator")
}

/// Fails unless a kernel's error, relative to float64, is at most twice that of the same-dtype textbook computation.
/// `slack` is for where the textbook happens to be exact.
#[track_caller]
pub fn assert_as_good(what: &str, found: &[f32], textbook: &[f32], exact: &[f64], slack: f64) {
    let (error, allowed) = (relative_error(found, exact), 2.0 * relative_error(textbook, exact) + slack);
    assert!(error <= allowed, "{what}: relative error {error:.3e}, allowed {allowed:.3e}");
}
