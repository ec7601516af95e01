//! A linear layer and its gradients, over dense weights and weights in 4 bits.

use super::{Run, compare, compare_large};
use crate::support::{assert_close, fast_gpus, normal_bf16, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::nf4::{self, Nf4Tensor};

/// `y`, `dx` written, `dx` added to, and for a dense weight `dw`.
fn case([tokens, inputs, outputs]: [usize; 3], nf4: bool) -> impl Fn(&Run) -> Vec<Tensor> {
    let mut rng = rng(1);
    let (x, dy) = (normal_bf16(&mut rng, tokens * inputs), normal_bf16(&mut rng, tokens * outputs));
    let [w, dw] = [0; 2].map(|_| normal_bf16(&mut rng, outputs * inputs));
    move |run: &Run| {
        let (x, dy) = (run.tensor(&x, &[tokens, inputs]), run.tensor(&dy, &[tokens, outputs]));
        let weight = match nf4 {
            true => Weight::Nf4(Nf4Tensor::quantize(&run.f32(&w, &[outputs, inputs]), true).unwrap()),
            false => Weight::Dense(run.tensor(&w, &[outputs, inputs])),
        };
        let (mut y, mut dx) = (run.poisoned(&[tokens, outputs]), run.poisoned(&[tokens, inputs]));
        linear::forward(&x, &weight, &mut y).unwrap();
        linear::backward_input(&dy, &weight, &mut dx, false).unwrap();
        let mut sum = run.tensor(&vec![0.5; tokens * inputs], &[tokens, inputs]);
        linear::backward_input(&dy, &weight, &mut sum, true).unwrap();
        let mut results = vec![y, dx, sum];
        if !nf4 {
            let mut dw = run.f32(&dw, &[outputs, inputs]);
            linear::backward_weight(&dy, &x, &mut dw).unwrap();
            results.push(dw);
        }
        results
    }
}

#[test]
fn forward_and_backward() {
    for nf4 in [false, true] {
        for shape in [[1, 64, 24], [3, 128, 40], [33, 64, 72]] {
            compare(&format!("linear {shape:?}, 4 bits: {nf4}"), 2e-6, case(shape, nf4));
        }
        // Tensor cores cut off bits where they add up: an f32 result shows it.
        for shape in [
            [1, 4096, 1536],
            [3, 1536, 576],
            [127, 576, 4096],
            [129, 4096, 576],
            [1000, 576, 1536],
            [1000, 1536, 4096],
            [1000, 4096, 4096],
        ] {
            compare_large(&format!("linear {shape:?}, 4 bits: {nf4}"), 5e-6, || case(shape, nf4));
        }
    }
}

#[test]
fn few_tokens_over_nf4() {
    // Tokens of every fused kernel, at its edges, and one more than the last takes; rows and inputs off its tiles, and more than
    // its stages hold. Of up to eight, more inputs than the warps' slices, and more rows than a group of tiles.
    for [tokens, outputs, inputs] in [
        [1, 520, 256],
        [3, 136, 4352],
        [5, 24, 192],
        [8, 130, 256],
        [9, 129, 512],
        [16, 24, 64],
        [33, 136, 320],
        [64, 1000, 768],
        [65, 24, 256],
        [128, 520, 320],
        [129, 24, 64],
    ] {
        let mut rng = rng(3);
        let w = normal_bf16(&mut rng, outputs * inputs);
        let (x, dy) = (normal_bf16(&mut rng, tokens * inputs), normal_bf16(&mut rng, tokens * outputs));
        for double in [false, true] {
            compare(&format!("linear over nf4 {tokens}x{outputs}x{inputs} double {double}"), 1e-6, |run| {
                let weight = Weight::Nf4(Nf4Tensor::quantize(&run.f32(&w, &[outputs, inputs]), double).unwrap());
                let (mut y, mut dx) = (run.poisoned(&[tokens, outputs]), run.poisoned(&[tokens, inputs]));
                linear::forward(&run.tensor(&x, &[tokens, inputs]), &weight, &mut y).unwrap();
                linear::backward_input(&run.tensor(&dy, &[tokens, outputs]), &weight, &mut dx, false).unwrap();
                vec![y, dx]
            });
        }
    }
}

#[test]
fn many_tokens_over_nf4_give_the_products_of_the_dequantised_weight() {
    // Outputs and tokens off the tiles; inputs of one stage and of more than the ring holds.
    for [tokens, outputs, inputs] in [[130, 4096, 128], [129, 1032, 512], [300, 8200, 256], [600, 2056, 1280]] {
        for device in fast_gpus() {
            let mut rng = rng(5);
            let run = Run { device: &device, dtype: DType::Bf16 };
            let w = run.f32(&normal_bf16(&mut rng, outputs * inputs), &[outputs, inputs]);
            let x = run.tensor(&normal_bf16(&mut rng, tokens * inputs), &[tokens, inputs]);
            for double in [false, true] {
                let nf4 = Nf4Tensor::quantize(&w, double).unwrap();
                let mut dense = run.poisoned(&[outputs, inputs]);
                nf4::dequantize(&nf4, &mut dense).unwrap();
                let [fused, apart] = [Weight::Nf4(nf4), Weight::Dense(dense)].map(|weight| {
                    let mut y = run.poisoned(&[tokens, outputs]);
                    linear::forward(&x, &weight, &mut y).unwrap();
                    y.to_f32().unwrap()
                });
                assert_close(&format!("{tokens}x{outputs}x{inputs} double {double}"), &fused, &apart, 4e-3);
            }
        }
    }
}
