//! Memory and streams, of this crate and of callers.

mod slices;
mod workspace;

use kiungo::device::{DType, Device, DeviceError, Tensor};

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
