use crate::support::poisoned_as;
use half::{bf16, f16};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::convert::{Report, Stored, convert};

fn run(stored: Stored, bytes: &[u8], dtype: DType) -> (Vec<f32>, Option<u64>) {
    let x = Tensor::from_slice(&Device::Cpu, bytes, &[bytes.len()]).unwrap();
    let mut y = poisoned_as(dtype, &[bytes.len() / stored.size()]);
    let mut report = Report::new(&Device::Cpu, 1).unwrap();
    convert(&x, stored, 1000, &mut y, &mut report).unwrap();
    (y.to_f32().unwrap(), report.read().unwrap()[0])
}

/// Every half there is.
#[test]
fn halves() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let (found, _) = run(Stored::F16, &bytes, DType::F32);
    for (bits, found) in (0..=u16::MAX).zip(found) {
        let expected = f16::from_bits(bits).to_f32();
        assert!(found == expected || found.is_nan() && expected.is_nan(), "{bits:#06x}: {found}, not {expected}");
    }
}

#[test]
fn rounds_to_nearest_and_reports_the_first_that_is_not_finite() {
    let values = [1.0f32, -0.1, 3.4e38, f32::NAN, f32::MIN_POSITIVE / 4.0, f32::INFINITY];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (found, report) = run(Stored::F32, &bytes, DType::F32);
    assert_eq!(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.map(f32::to_bits));
    assert_eq!(report, Some(1003));
    let (found, report) = run(Stored::F32, &bytes, DType::Bf16);
    assert_eq!(found[..2], [1.0, bf16::from_f32(-0.1).to_f32()]);
    assert_eq!(report, Some(1002), "3.4e38 is no bf16");
    assert_eq!(run(Stored::F32, &bytes[..8], DType::Bf16).1, None);
}

#[test]
fn a_wrong_number_of_bytes_is_refused() {
    let x = Tensor::from_slice(&Device::Cpu, &[0u8; 7], &[7]).unwrap();
    let mut y = poisoned_as(DType::F32, &[2]);
    let error = convert(&x, Stored::F32, 0, &mut y, &mut Report::new(&Device::Cpu, 1).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "convert: x has shape [7], expected [8]");
}
