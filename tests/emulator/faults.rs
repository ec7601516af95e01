//! The emulator finds what it says it finds.

use super::Emulator;
use kiungo::device::{Device, Gpu, Launch, Tensor};
use kiungo::ops::params::RmsnormForwardParams;

/// Launches a kernel of `faults.cu` over 64 x `width` floats of 1; the floats after it, or the emulator's message.
fn launch(kernel: &'static str, blocks: u32, width: usize) -> Option<Result<Vec<f32>, String>> {
    if let Some(reason) = super::unavailable() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let device = Device::Cuda(Gpu::new(Emulator::new()));
    let data = Tensor::from_vec(&device, vec![1.0f32; 64 * width], &[64 * width]).unwrap();
    let params = RmsnormForwardParams { x: data.address().unwrap(), ..Default::default() };
    let Device::Cuda(gpu) = &device else { unreachable!() };
    let result = gpu.launch(&Launch::new("faults", kernel, [blocks, 1, 1], 64, params));
    Some(result.map(|()| data.to_vec().unwrap()).map_err(|e| e.to_string()))
}

#[track_caller]
fn fails(kernel: &'static str, blocks: u32, width: usize, words: &str) {
    if let Some(result) = launch(kernel, blocks, width) {
        let message = result.expect_err(kernel);
        assert!(message.contains(words), "{kernel}: {message}");
    }
}

#[test]
fn correct_kernels_pass() {
    if let Some(result) = launch("correct", 1, 1) {
        assert_eq!(result.unwrap(), (0..64).map(|i| ((i + 1) % 64) as f32).collect::<Vec<_>>());
    }
    for kernel in ["waited_copy", "copies_in_turn"] {
        if let Some(result) = launch(kernel, 1, 4) {
            assert!(result.unwrap().iter().step_by(4).all(|&v| v == 2.0), "{kernel}");
        }
    }
}

#[test]
fn races_are_found() {
    fails("missing_barrier", 1, 1, "race in shared memory");
    fails("overwrite_before_read", 1, 1, "race in shared memory");
    fails("warp_barrier_is_not_enough", 1, 1, "race in shared memory");
    fails("blocks_collide", 2, 1, "another block's thread");
    fails("copies_at_once", 1, 4, "earlier copy that was not waited for");
}

#[test]
fn divergent_barriers_are_found() {
    fails("divergent_barrier", 1, 1, "deadlock: threads wait for each other");
    fails("divergent_shuffle", 1, 1, "shfl");
}

#[test]
fn bad_addresses_are_found() {
    fails("out_of_bounds", 1, 1, "illegal write of 4 bytes");
    fails("misaligned", 1, 1, "misaligned");
}

#[test]
fn shared_memory_starts_as_nan_and_copies_arrive_at_the_wait() {
    for (kernel, width, step) in [("uninitialised_shared", 1, 1), ("copy_without_wait", 4, 4)] {
        if let Some(result) = launch(kernel, 1, width) {
            assert!(result.unwrap().iter().step_by(step).all(|v| v.is_nan()), "{kernel}");
        }
    }
}
