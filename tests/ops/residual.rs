use crate::support::{assert_bf16, normal, normal_bf16, rng, tensor, tensor_as, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::residual;

#[test]
fn adds_in_f32() {
    let n = 3 * 9001;
    let mut rng = rng(1);
    let (x, y) = (normal(&mut rng, n), normal(&mut rng, n));
    let mut sum = tensor(&x, &[3, 9001]);
    residual::add(&mut sum, &tensor(&y, &[3, 9001])).unwrap();
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    assert_eq!(sum.to_vec::<f32>().unwrap(), expected);
}

#[test]
fn adds_in_bf16_with_one_rounding() {
    let mut rng = rng(2);
    let (x, y) = (normal_bf16(&mut rng, 77), normal_bf16(&mut rng, 77));
    let bf16 = |v: &[f32]| tensor_as(DType::Bf16, v, &[7, 11]);
    let mut sum = bf16(&x);
    residual::add(&mut sum, &bf16(&y)).unwrap();
    let exact: Vec<f64> = widen(&x).iter().zip(widen(&y)).map(|(x, y)| x + y).collect();
    assert_bf16("sum", &sum, &exact);
}

#[test]
fn other_shapes_and_types_are_refused() {
    let mut x = tensor(&[0.0; 6], &[2, 3]);
    let error = residual::add(&mut x, &tensor(&[0.0; 6], &[3, 2])).unwrap_err();
    assert_eq!(error.to_string(), "residual: x has shape [2, 3], expected [3, 2]");
    let y = Tensor::zeros(&Device::Cpu, DType::Bf16, &[2, 3]).unwrap();
    assert_eq!(residual::add(&mut x, &y).unwrap_err().to_string(), "residual: x is f32, expected bf16");
}
