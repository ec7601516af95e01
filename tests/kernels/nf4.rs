use super::bits;
use crate::support::{gpus, normal, normal_bf16, poisoned_on, rng};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::nf4::{self, Nf4Tensor, Scales, THRESHOLDS};

/// All bytes of a quantised tensor.
fn bytes(x: &Nf4Tensor) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
    let codes = x.codes.to_vec::<u8>().unwrap();
    match &x.scales {
        Scales::Plain { absmax } => (codes, Vec::new(), bits(&absmax.to_f32().unwrap())),
        Scales::Double { codes: scales, nested, offset, .. } => {
            let floats = [nested.to_f32().unwrap(), offset.to_f32().unwrap()].concat();
            (codes, scales.to_vec().unwrap(), bits(&floats))
        }
    }
}

/// Quantises and dequantises on the CPU and on every GPU: the same bytes.
#[track_caller]
fn check(dtype: DType, x: &[f32], shape: [usize; 2]) {
    for double in [false, true] {
        let run = |device: &Device| {
            let mut quantized = Nf4Tensor::empty(device, shape, double).unwrap();
            quantized.codes = poisoned_on(device, DType::U8, quantized.codes.shape());
            let x = Tensor::from_f32(device, dtype, x.to_vec(), &shape).unwrap();
            nf4::quantize(&x, &mut quantized).unwrap();
            let mut outputs = Vec::new();
            for (exact, dtype) in [(true, DType::F32), (false, DType::F32), (false, DType::Bf16)] {
                let mut y = poisoned_on(device, dtype, &shape);
                let dequantize = if exact { nf4::dequantize_exact } else { nf4::dequantize };
                dequantize(&quantized, &mut y).unwrap();
                outputs.push(bits(&y.to_f32().unwrap()));
            }
            (bytes(&quantized), outputs)
        };
        let expected = run(&Device::Cpu);
        for gpu in gpus() {
            let (found, what) = (run(&gpu), format!("{dtype} {shape:?} double {double} on {gpu}"));
            assert!(found.0 == expected.0, "{what}: quantised to other bytes than on the CPU");
            assert!(found.1 == expected.1, "{what}: dequantised to other bytes than on the CPU");
        }
    }
}

#[test]
fn bytes_are_those_of_the_cpu() {
    for shape in [[1, 64], [3, 192], [129, 64], [8, 2560]] {
        let values = normal_bf16(&mut rng(1), shape[0] * shape[1]);
        check(DType::Bf16, &values, shape);
        let values = normal(&mut rng(2), shape[0] * shape[1]);
        check(DType::F32, &values, shape);
    }
}

#[test]
fn values_at_and_beside_every_threshold() {
    let near = |t: f32| [t, f32::from_bits(t.to_bits() + 1), f32::from_bits(t.to_bits() - 1)];
    let edges = (-16..=16).map(|i| i as f32 / 16.0).filter(|&x| x != 0.0 && x.abs() != 1.0);
    let mut values: Vec<f32> = THRESHOLDS.into_iter().chain(edges).flat_map(near).collect();
    values.extend([0.0, -0.0, f32::MIN_POSITIVE, 1e-30]);
    // An absmax of 1 in every block, so that values are compared as they are.
    let mut x = Vec::new();
    for chunk in values.chunks(62) {
        x.extend([1.0, -1.0].iter().chain(chunk));
        x.resize(x.len().next_multiple_of(64), 0.5);
    }
    check(DType::F32, &x, [x.len() / 64, 64]);
}

#[test]
fn blocks_of_zeros_and_of_extremes() {
    let mut x = vec![0.0f32; 64];
    x.extend([f32::MAX; 64]);
    x.extend([1e-40; 64]);
    x.extend((0..64).map(|i| if i == 7 { f32::INFINITY } else { 1.0 }));
    check(DType::F32, &x[..192], [3, 64]);
    check(DType::F32, &x[..64], [1, 64]);
}
