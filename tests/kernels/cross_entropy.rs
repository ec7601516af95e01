use super::{compare, compare_large};
use crate::support::{gpus, normal_bf16, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::cross_entropy::{self, IGNORE};
use rand::Rng;

/// Loss, `dhidden`, and a `dhead` that is added to; every fifth token is not counted.
fn case([tokens, h, vocab]: [usize; 3]) -> impl Fn(&super::Run) -> Vec<Tensor> {
    let mut rng = rng(1);
    let [x, w] = [tokens, vocab].map(|rows| normal_bf16(&mut rng, rows * h));
    // Logits of the size that a model has, whatever its width.
    let w: Vec<f32> = w.iter().map(|w| w / 16.0).collect();
    let before = normal_bf16(&mut rng, vocab * h);
    let labels: Vec<u32> =
        (0..tokens).map(|t| if t % 5 == 1 { IGNORE } else { rng.random_range(0..vocab as u32) }).collect();
    move |run: &super::Run| {
        let labels = Tensor::from_slice(run.device, &labels, &[tokens]).unwrap();
        let (x, w) = (run.tensor(&x, &[tokens, h]), run.tensor(&w, &[vocab, h]));
        let (mut loss, mut dx) = (run.poisoned_as(DType::F32, &[1]), run.poisoned(&[tokens, h]));
        let mut dw = run.f32(&before, &[vocab, h]);
        cross_entropy::forward_backward(&x, &w, &labels, &mut loss, Some(&mut dx), Some(&mut dw)).unwrap();
        vec![loss, dx, dw]
    }
}

#[test]
fn loss_and_gradients() {
    // 515 tokens are two chunks.
    for shape in [[1, 8, 17], [3, 41, 300], [33, 72, 40], [515, 8, 9]] {
        compare(&format!("cross-entropy {shape:?}"), 2e-6, case(shape));
    }
    for shape in [[1, 576, 49152], [3, 1536, 3001], [127, 4096, 2000], [129, 576, 5000], [1000, 1536, 4096]] {
        compare_large(&format!("cross-entropy {shape:?}"), 5e-6, || case(shape));
    }
}

/// Gradients that are not wanted, and tokens that are not counted.
#[test]
fn nothing_counted_is_zero_and_a_label_beyond_the_vocabulary_is_nan() {
    for gpu in gpus() {
        let run = |labels: &[u32]| {
            let f32 = |values: &[f32], shape: &[usize]| Tensor::from_slice(&gpu, values, shape).unwrap();
            let (x, w) = (f32(&[1.0, 2.0], &[2, 1]), f32(&[1.0, 3.0], &[2, 1]));
            let labels = Tensor::from_slice(&gpu, labels, &[2]).unwrap();
            let mut loss = f32(&[7.0], &[1]);
            cross_entropy::forward_backward(&x, &w, &labels, &mut loss, None, None).unwrap();
            loss.to_f32().unwrap()[0]
        };
        assert_eq!(run(&[IGNORE; 2]), 0.0, "{gpu}");
        assert!(run(&[1, 2]).is_nan() && run(&[1, 0]).is_finite(), "{gpu}");
    }
}

#[test]
fn large_logits_stay_finite() {
    for gpu in gpus() {
        let f32 = |values: &[f32], shape: &[usize]| Tensor::from_slice(&gpu, values, shape).unwrap();
        let labels = Tensor::from_slice(&gpu, &[0u32, 1], &[2]).unwrap();
        let (x, w) = (f32(&[1.0; 2], &[2, 1]), f32(&[1e4, -1e4], &[2, 1]));
        let (mut loss, mut dx) = (f32(&[7.0], &[1]), Tensor::zeros(&gpu, DType::F32, &[2, 1]).unwrap());
        cross_entropy::forward_backward(&x, &w, &labels, &mut loss, Some(&mut dx), None).unwrap();
        assert_eq!((loss.to_f32().unwrap(), dx.to_f32().unwrap()), (vec![1e4], vec![0.0, 1e4]), "{gpu}");
    }
}
