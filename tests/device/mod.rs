//! Memory and streams, of this crate and of callers.

mod recent;
mod slices;
mod staging;
mod support;
mod workspace;

use crate::support::{gpus, is_emulator, under_sanitizer};
use kiungo::device::{DType, Device, DeviceError, Launch, Tensor};
use kiungo::ops::params::StepJudgeParams;

#[test]
fn a_shape_beyond_all_memory_is_refused() {
    for shape in [&[usize::MAX, 2][..], &[1 << 40, 1 << 40], &[usize::MAX]] {
        let refused = [
            Tensor::zeros(&Device::Cpu, DType::F32, shape).err(),
            Tensor::from_slice(&Device::Cpu, &[0.0f32; 2], shape).err(),
            Tensor::from_slice(&Device::Cpu, &[0.0f32; 2], &[2]).unwrap().reshape(shape).err(),
        ];
        for refused in refused {
            assert!(matches!(refused, Some(DeviceError::TooLarge { .. })), "{shape:?}: {refused:?}");
        }
    }
    let mut tensor = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 3]).unwrap();
    assert!(tensor.set_rows(usize::MAX).is_err());
    assert!(tensor.set_square(1 << 33).is_err());
    assert_eq!(tensor.shape(), [2, 3]);
}

/// What cannot be launched is told by the kernel's name and shape: no block has that many threads.
#[test]
fn a_launch_error_names_the_kernel_and_its_shape() {
    for device in gpus().into_iter().filter(|device| !is_emulator(device) && !under_sanitizer()) {
        let Device::Cuda(gpu) = &device else { continue };
        let launch = Launch::new("step", "step_begin", [7, 1, 1], 4096, StepJudgeParams::default());
        let error = gpu.launch(&launch).unwrap_err().to_string();
        println!("{error}");
        assert!(error.starts_with("step_begin with grid 7x1x1 of 4096: "), "{error}");
    }
}
