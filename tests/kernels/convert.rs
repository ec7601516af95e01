use super::bits;
use crate::support::{gpus, normal, poisoned_on, rng};
use half::{bf16, f16};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::convert::{Report, Stored, convert};

#[track_caller]
fn check(stored: Stored, bytes: &[u8]) {
    for dtype in [DType::F32, DType::Bf16] {
        let run = |device: &Device| {
            let x = Tensor::from_slice(device, bytes, &[bytes.len()]).unwrap();
            let mut y = poisoned_on(device, dtype, &[bytes.len() / stored.size()]);
            let mut report = Report::new(device, 1).unwrap();
            convert(&x, stored, 5, &mut y, &mut report).unwrap();
            // NaNs have many bits.
            let values: Vec<f32> = y.to_f32().unwrap().iter().map(|v| if v.is_nan() { f32::NAN } else { *v }).collect();
            (bits(&values), report.read().unwrap())
        };
        let expected = run(&Device::Cpu);
        for gpu in gpus() {
            let found = run(&gpu);
            assert!(found.0 == expected.0, "{stored} to {dtype} on {gpu}: other bytes than on the CPU");
            assert_eq!(found.1, expected.1, "{stored} to {dtype} on {gpu}: what is not finite");
        }
    }
}

#[test]
fn bytes_are_those_of_the_cpu() {
    for n in [1, 8, 64, 1003, 5000] {
        let mut values = normal(&mut rng(1), n);
        for damage in [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::MAX)] {
            if let Some(damage) = damage {
                (values[n / 2], values[n - 1]) = (damage, damage);
            }
            check(Stored::F32, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
            check(Stored::F16, &values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect::<Vec<_>>());
            check(Stored::Bf16, &values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect::<Vec<_>>());
        }
    }
}

/// Subnormals, infinities and NaNs among them.
#[test]
fn every_half() {
    check(Stored::F16, &(0..=u16::MAX).flat_map(u16::to_le_bytes).collect::<Vec<_>>());
}
