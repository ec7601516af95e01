use crate::support::{assert_close, assert_gradient, normal, rng, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::rmsnorm;

const EPS: f32 = 1e-5;

fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
    x.chunks(weight.len())
        .flat_map(|row| {
            let rms = (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + EPS as f64).sqrt();
            row.iter().zip(weight).map(move |(v, w)| v / rms * w).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn forward_matches_float64() {
    for (tokens, hidden) in [(1, 8), (3, 576), (127, 40)] {
        let mut rng = rng(1);
        let (x, w) = (normal(&mut rng, tokens * hidden), normal(&mut rng, hidden));
        let expected = reference(&widen(&x), &widen(&w));
        let cpu = Device::Cpu;
        let x = Tensor::from_vec(&cpu, x, &[tokens, hidden]).unwrap();
        let w = Tensor::from_vec(&cpu, w, &[hidden]).unwrap();
        let mut y = Tensor::zeros(&cpu, DType::F32, &[tokens, hidden]).unwrap();
        let mut inv = Tensor::zeros(&cpu, DType::F32, &[tokens]).unwrap();
        y.fill_byte(0xFF).unwrap();
        inv.fill_byte(0xFF).unwrap();
        rmsnorm::forward(&x, &w, EPS, &mut y, &mut inv).unwrap();
        assert_close("y", y.as_slice::<f32>().unwrap(), &expected, 1e-6);
    }
}

#[test]
fn backward_matches_central_differences() {
    let (tokens, hidden) = (3, 16);
    let mut rng = rng(2);
    let (x, w, dy) = (normal(&mut rng, tokens * hidden), normal(&mut rng, hidden), normal(&mut rng, tokens * hidden));
    let cpu = Device::Cpu;
    let tensor = |v: &[f32], shape: &[usize]| Tensor::from_slice(&cpu, v, shape).unwrap();
    let (xt, wt, dyt) = (tensor(&x, &[tokens, hidden]), tensor(&w, &[hidden]), tensor(&dy, &[tokens, hidden]));
    let mut y = Tensor::zeros(&cpu, DType::F32, &[tokens, hidden]).unwrap();
    let mut inv = Tensor::zeros(&cpu, DType::F32, &[tokens]).unwrap();
    rmsnorm::forward(&xt, &wt, EPS, &mut y, &mut inv).unwrap();
    let mut dx = Tensor::zeros(&cpu, DType::F32, &[tokens, hidden]).unwrap();
    let mut dw = Tensor::zeros(&cpu, DType::F32, &[hidden]).unwrap();
    rmsnorm::backward(&dyt, &xt, &wt, &inv, &mut dx, Some(&mut dw)).unwrap();

    let dot = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, &d)| y * d as f64).sum::<f64>();
    let (x, w) = (widen(&x), widen(&w));
    assert_gradient("dx", &x, dx.as_slice().unwrap(), 1e-5, |x| dot(reference(x, &w)));
    assert_gradient("dw", &w, dw.as_slice().unwrap(), 1e-5, |w| dot(reference(&x, w)));
}

#[test]
fn wrong_shapes_are_named() {
    let cpu = Device::Cpu;
    let zeros = |shape: &[usize]| Tensor::zeros(&cpu, DType::F32, shape).unwrap();
    let (mut y, mut inv) = (zeros(&[2, 8]), zeros(&[2]));
    let error = rmsnorm::forward(&zeros(&[2, 8]), &zeros(&[9]), EPS, &mut y, &mut inv).unwrap_err();
    assert_eq!(error.to_string(), "rmsnorm: weight has shape [9], expected [8]");
}
