use crate::support::{assert_bf16, assert_close, normal, normal_bf16, rng, tensor, tensor_as, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::rope::{self, Scaling, Table};

const LLAMA3: Scaling =
    Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 8192.0 };

/// One complex number a plane, turned by `position * frequency`.
fn reference(x: &[f64], columns: usize, positions: &[u32], frequencies: &[f64]) -> Vec<f64> {
    let half = frequencies.len();
    let mut y = x.to_vec();
    for (row, &position) in y.chunks_mut(columns).zip(positions) {
        for head in row.chunks_mut(2 * half) {
            for i in 0..half {
                let (radius, angle) = (head[i].hypot(head[i + half]), head[i + half].atan2(head[i]));
                let angle = angle + position as f64 * frequencies[i];
                (head[i], head[i + half]) = (radius * angle.cos(), radius * angle.sin());
            }
        }
    }
    y
}

fn positions(p: &[u32]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, p, &[p.len()]).unwrap()
}

#[test]
fn forward_matches_float64_and_backward_undoes_it() {
    for (heads, head_dim) in [(1, 2), (3, 16), (9, 64), (2, 128)] {
        let columns = heads * head_dim;
        let at = [0, 1, 2, 0, 255, 7];
        let x = normal(&mut rng(1), at.len() * columns);
        let frequencies = rope::inverse_frequencies(500_000.0, head_dim, &LLAMA3);
        let table = Table::new(&Device::Cpu, &frequencies, 256).unwrap();
        let mut y = tensor(&x, &[at.len(), columns]);
        rope::forward(&mut y, &positions(&at), &table, head_dim).unwrap();
        let expected = reference(&widen(&x), columns, &at, &frequencies);
        assert_close("y", y.as_slice::<f32>().unwrap(), &expected, 1e-6);
        // The inverse of a rotation is its transpose, which is what a gradient is multiplied by.
        rope::backward(&mut y, &positions(&at), &table, head_dim).unwrap();
        assert_close("back", y.as_slice::<f32>().unwrap(), &widen(&x), 1e-6);
    }
}

#[test]
fn bf16_rounds_once() {
    let (at, head_dim) = ([3, 11, 200], 32);
    let x = normal_bf16(&mut rng(2), at.len() * 64);
    let frequencies = rope::inverse_frequencies(10_000.0, head_dim, &Scaling::None);
    let table = Table::new(&Device::Cpu, &frequencies, 201).unwrap();
    let mut y = tensor_as(DType::Bf16, &x, &[3, 64]);
    rope::forward(&mut y, &positions(&at), &table, head_dim).unwrap();
    assert_bf16("y", &y, &reference(&widen(&x), 64, &at, &frequencies));
}

/// The three cases as transformers and the Llama 3.1 release write them, by wavelength.
#[test]
fn llama3_scaling_matches_its_definition() {
    let (theta, head_dim) = (500_000.0f64, 128);
    let (factor, low, high, original) = (8.0, 1.0, 4.0, 8192.0);
    let mut cases = [0; 3];
    let expected: Vec<f64> = (0..head_dim / 2)
        .map(|i| {
            let f = 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64);
            let wavelength = 2.0 * std::f64::consts::PI / f;
            if wavelength < original / high {
                cases[0] += 1;
                f
            } else if wavelength > original / low {
                cases[1] += 1;
                f / factor
            } else {
                cases[2] += 1;
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * f / factor + smooth * f
            }
        })
        .collect();
    assert!(cases.iter().all(|&n| n > 0), "{cases:?}");
    assert_close("frequencies", &rope::inverse_frequencies(theta, head_dim, &LLAMA3), &expected, 1e-14);
}

#[test]
fn linear_scaling_divides() {
    let plain = rope::inverse_frequencies(10_000.0, 8, &Scaling::None);
    assert_close("plain", &plain, &[1.0, 0.1, 0.01, 0.001], 1e-14);
    let linear = rope::inverse_frequencies(10_000.0, 8, &Scaling::Linear { factor: 4.0 });
    assert_close("linear", &linear, &[0.25, 0.025, 0.0025, 0.00025], 1e-14);
}

#[test]
fn what_does_not_fit_is_refused() {
    let table = Table::new(&Device::Cpu, &rope::inverse_frequencies(1e4, 8, &Scaling::None), 4).unwrap();
    let error = |x: &mut Tensor, at: &[u32], head_dim| {
        rope::forward(x, &positions(at), &table, head_dim).unwrap_err().to_string()
    };
    let mut x = tensor(&[0.0; 32], &[2, 16]);
    assert_eq!(error(&mut x, &[0, 4], 8), "rope: position 4 is beyond the model's 4 positions: cut the text");
    assert_eq!(error(&mut x, &[0], 8), "rope: positions has shape [1], expected [2]");
    assert_eq!(error(&mut x, &[0, 1], 16), "rope: table has shape [4, 4], expected [4, 8]");
    assert_eq!(error(&mut x, &[0, 1], 6), "rope: 16 columns cannot be cut into heads of 6, which must be even");
    let mut ids = positions(&[0; 32]).reshape(&[2, 16]).unwrap();
    assert_eq!(error(&mut ids, &[0, 1], 8), "rope: x is u32, expected f32 or bf16");
}
