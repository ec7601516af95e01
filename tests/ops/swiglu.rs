use crate::support::{
    assert_bf16, assert_close, assert_gradient, normal, normal_bf16, poisoned, poisoned_as, rng, tensor, tensor_as,
    widen,
};
use kiungo::device::DType;
use kiungo::ops::swiglu;

fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

#[test]
fn forward_matches_float64() {
    for n in [1, 33, 5000] {
        let mut rng = rng(1);
        let (gate, up) = (normal(&mut rng, n), normal(&mut rng, n));
        let mut y = poisoned(&[n]);
        swiglu::forward(&tensor(&gate, &[n]), &tensor(&up, &[n]), &mut y).unwrap();
        assert_close("y", y.as_slice::<f32>().unwrap(), &reference(&widen(&gate), &widen(&up)), 1e-6);
    }
}

#[test]
fn huge_gates_stay_finite() {
    let gate = tensor(&[-1e4, -100.0, 100.0, 1e4], &[4]);
    let mut y = poisoned(&[4]);
    swiglu::forward(&gate, &tensor(&[1.0; 4], &[4]), &mut y).unwrap();
    assert_close("y", y.as_slice::<f32>().unwrap(), &[-0.0, 0.0, 100.0, 1e4], 1e-6);
}

#[test]
fn backward_matches_central_differences() {
    let n = 51;
    let mut rng = rng(2);
    let (gate, up, dy) = (normal(&mut rng, n), normal(&mut rng, n), normal(&mut rng, n));
    let (mut dgate, mut dup) = (poisoned(&[n]), poisoned(&[n]));
    swiglu::backward(&tensor(&dy, &[n]), &tensor(&gate, &[n]), &tensor(&up, &[n]), &mut dgate, &mut dup).unwrap();
    let dot = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, &d)| y * d as f64).sum::<f64>();
    let (gate, up) = (widen(&gate), widen(&up));
    assert_gradient("dgate", &gate, dgate.as_slice().unwrap(), 1e-6, |gate| dot(reference(gate, &up)));
    assert_gradient("dup", &up, dup.as_slice().unwrap(), 1e-6, |up| dot(reference(&gate, up)));
}

#[test]
fn bf16_rounds_once() {
    let n = 4099;
    let mut rng = rng(3);
    let (gate, up, dy) = (normal_bf16(&mut rng, n), normal_bf16(&mut rng, n), normal_bf16(&mut rng, n));
    let bf16 = |v: &[f32]| tensor_as(DType::Bf16, v, &[n]);
    let (mut y, mut dgate, mut dup) =
        (poisoned_as(DType::Bf16, &[n]), poisoned_as(DType::Bf16, &[n]), poisoned_as(DType::Bf16, &[n]));
    swiglu::forward(&bf16(&gate), &bf16(&up), &mut y).unwrap();
    swiglu::backward(&bf16(&dy), &bf16(&gate), &bf16(&up), &mut dgate, &mut dup).unwrap();
    let (gate, up, dy) = (widen(&gate), widen(&up), widen(&dy));
    assert_bf16("y", &y, &reference(&gate, &up));
    let gradients = |i: usize| {
        let s = 1.0 / (1.0 + (-gate[i]).exp());
        (dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)), dy[i] * gate[i] * s)
    };
    let (exact_dgate, exact_dup): (Vec<f64>, Vec<f64>) = (0..n).map(gradients).unzip();
    assert_bf16("dgate", &dgate, &exact_dgate);
    assert_bf16("dup", &dup, &exact_dup);
}

#[test]
fn other_shapes_are_refused() {
    let (gate, up) = (tensor(&[0.0; 6], &[2, 3]), tensor(&[0.0; 8], &[2, 4]));
    let error = swiglu::forward(&gate, &up, &mut poisoned(&[2, 3])).unwrap_err();
    assert_eq!(error.to_string(), "swiglu: up has shape [2, 4], expected [2, 3]");
    let error = swiglu::forward(&gate, &gate, &mut poisoned_as(DType::Bf16, &[2, 3])).unwrap_err();
    assert_eq!(error.to_string(), "swiglu: y is bf16, expected f32");
}
