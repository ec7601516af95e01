use crate::support::{
    assert_bf16, assert_close, assert_gradient, normal, normal_bf16, poisoned, poisoned_as, rng, tensor, tensor_as,
    widen,
};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::linear::{self, Weight};

const TOKENS: usize = 5;
const IN: usize = 12;
const OUT: usize = 7;

fn reference(x: &[f64], w: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| w.chunks(IN).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect::<Vec<f64>>();
    x.chunks(IN).flat_map(row).collect()
}

#[test]
fn forward_matches_float64() {
    let mut rng = rng(1);
    let (x, w) = (normal(&mut rng, TOKENS * IN), normal_bf16(&mut rng, OUT * IN));
    let expected = reference(&widen(&x), &widen(&w));
    for dtype in [DType::F32, DType::Bf16] {
        let weight = Weight::Dense(tensor_as(dtype, &w, &[OUT, IN]));
        let mut y = poisoned(&[TOKENS, OUT]);
        linear::forward(&tensor(&x, &[TOKENS, IN]), &weight, &mut y).unwrap();
        assert_close("y", y.as_slice::<f32>().unwrap(), &expected, 1e-6);
    }
}

#[test]
fn gradients_match_central_differences_and_add() {
    let mut rng = rng(2);
    let (x, w, dy) = (normal(&mut rng, TOKENS * IN), normal(&mut rng, OUT * IN), normal(&mut rng, TOKENS * OUT));
    let (dx_before, dw_before) = (normal(&mut rng, TOKENS * IN), normal(&mut rng, OUT * IN));
    let weight = Weight::Dense(tensor(&w, &[OUT, IN]));
    let (xt, dyt) = (tensor(&x, &[TOKENS, IN]), tensor(&dy, &[TOKENS, OUT]));
    let mut dx = poisoned(&[TOKENS, IN]);
    linear::backward_input(&dyt, &weight, &mut dx, false).unwrap();
    let mut dx_added = tensor(&dx_before, &[TOKENS, IN]);
    linear::backward_input(&dyt, &weight, &mut dx_added, true).unwrap();
    let mut dw_added = tensor(&dw_before, &[OUT, IN]);
    linear::backward_weight(&dyt, &xt, &mut dw_added).unwrap();

    let loss = |x: &[f64], w: &[f64]| reference(x, w).iter().zip(&dy).map(|(y, &d)| y * d as f64).sum::<f64>();
    let without = |sum: &Tensor, before: &[f32]| -> Vec<f32> {
        sum.as_slice::<f32>().unwrap().iter().zip(before).map(|(s, b)| s - b).collect()
    };
    let (x, w) = (widen(&x), widen(&w));
    assert_gradient("dx", &x, dx.as_slice().unwrap(), 1e-6, |x| loss(x, &w));
    assert_gradient("dx added", &x, &without(&dx_added, &dx_before), 1e-6, |x| loss(x, &w));
    assert_gradient("dw added", &w, &without(&dw_added, &dw_before), 1e-6, |w| loss(&x, w));
}

#[test]
fn an_input_of_several_layers_has_the_sum_of_their_gradients() {
    let mut rng = rng(4);
    let layers = [0; 3].map(|_| (normal(&mut rng, OUT * IN), normal(&mut rng, TOKENS * OUT)));
    let weights = layers.each_ref().map(|(w, _)| Weight::Dense(tensor(w, &[OUT, IN])));
    let dy = layers.each_ref().map(|(_, dy)| tensor(dy, &[TOKENS, OUT]));
    let mut dx = poisoned(&[TOKENS, IN]);
    linear::backward_inputs(&dy.iter().zip(&weights).collect::<Vec<_>>(), &mut dx).unwrap();
    let expected: Vec<f64> = (0..TOKENS * IN)
        .map(|i| {
            let (token, input) = (i / IN, i % IN);
            let of = |(w, dy): &(Vec<f32>, Vec<f32>)| {
                (0..OUT).map(|o| f64::from(dy[token * OUT + o]) * f64::from(w[o * IN + input])).sum::<f64>()
            };
            layers.iter().map(of).sum()
        })
        .collect();
    assert_close("dx", dx.as_slice::<f32>().unwrap(), &expected, 1e-6);
}

#[test]
fn bf16_rounds_once() {
    let mut rng = rng(3);
    let (x, w) = (normal_bf16(&mut rng, TOKENS * IN), normal_bf16(&mut rng, OUT * IN));
    let mut y = poisoned_as(DType::Bf16, &[TOKENS, OUT]);
    linear::forward(
        &tensor_as(DType::Bf16, &x, &[TOKENS, IN]),
        &Weight::Dense(tensor_as(DType::Bf16, &w, &[OUT, IN])),
        &mut y,
    )
    .unwrap();
    assert_bf16("y", &y, &reference(&widen(&x), &widen(&w)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&Device::Cpu, dtype, shape).unwrap();
    let weight = Weight::Dense(zeros(DType::F32, &[OUT, IN]));
    let x = zeros(DType::F32, &[TOKENS, IN]);
    let error = linear::forward(&x, &weight, &mut zeros(DType::F32, &[TOKENS, IN])).unwrap_err();
    assert_eq!(error.to_string(), "linear: y has shape [5, 12], expected [5, 7]");
    let error = linear::forward(&x, &weight, &mut zeros(DType::Bf16, &[TOKENS, OUT])).unwrap_err();
    assert_eq!(error.to_string(), "linear: y is bf16, expected f32");
    let mut dw = zeros(DType::Bf16, &[OUT, IN]);
    let error = linear::backward_weight(&zeros(DType::F32, &[TOKENS, OUT]), &x, &mut dw).unwrap_err();
    assert_eq!(error.to_string(), "linear backward: dw is bf16, expected f32");
}
