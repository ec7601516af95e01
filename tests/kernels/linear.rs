//! A linear layer and its gradients, over dense weights and weights in 4 bits.

use super::{Run, compare, compare_as, compare_bf16, compare_large};
use crate::support::{assert_as_good, assert_close, fast_gpus, gpus, is_emulator, normal_bf16, rng, under_sanitizer};
use kiungo::device::{DType, Device, Tensor};
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

/// `y` of a weight in 4 bits.
fn over_nf4([tokens, outputs, inputs]: [usize; 3], double: bool) -> impl Fn(&Run) -> Vec<Tensor> {
    let mut rng = rng(3);
    let w = normal_bf16(&mut rng, outputs * inputs);
    let x = normal_bf16(&mut rng, tokens * inputs);
    move |run: &Run| {
        let weight = Weight::Nf4(Nf4Tensor::quantize(&run.f32(&w, &[outputs, inputs]), double).unwrap());
        let mut y = run.poisoned(&[tokens, outputs]);
        linear::forward(&run.tensor(&x, &[tokens, inputs]), &weight, &mut y).unwrap();
        vec![y]
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
        [64, 130, 768],
        [65, 24, 256],
        [128, 130, 320],
        [129, 24, 64],
    ] {
        for double in [false, true] {
            let what = format!("linear over nf4 {tokens}x{outputs}x{inputs} double {double}");
            compare_bf16(&what, 1e-6, over_nf4([tokens, outputs, inputs], double));
        }
    }
    for shape in [[64, 1000, 768], [71, 520, 4096], [81, 264, 2112], [96, 136, 1024], [128, 520, 320]] {
        for double in [false, true] {
            compare_large(&format!("linear over nf4 {shape:?} double {double}"), 1e-6, || over_nf4(shape, double));
        }
    }
}

/// `dx + dy W` in float64, of the weight before it is rounded to bf16.
fn input_gradient(dy: &[f32], weight: &[f32], [tokens, outputs, inputs]: [usize; 3], dx: f64) -> Vec<f64> {
    let mut sums = vec![dx; tokens * inputs];
    for (dy, sums) in dy.chunks(outputs).zip(sums.chunks_mut(inputs)) {
        for (&dy, row) in dy.iter().zip(weight.chunks(inputs)) {
            sums.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(dy) * f64::from(w));
        }
    }
    sums
}

#[test]
fn input_gradient_of_few_tokens_over_nf4() {
    // Tokens of every fused kernel, at its edges; outputs and inputs off its tiles, and so many outputs that they are taken in
    // parts. The last are for a GPU alone.
    let shapes = [
        [1, 400, 256],
        [5, 24, 192],
        [8, 136, 256],
        [9, 128, 512],
        [16, 24, 64],
        [25, 520, 64],
        [33, 136, 320],
        [64, 1000, 768],
        [1, 4096, 1536],
        [16, 14336, 512],
        [65, 24, 256],
        [71, 1032, 320],
        [80, 14336, 512],
        [81, 1032, 320],
        [96, 2048, 768],
        [128, 2048, 768],
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        let [tokens, outputs, inputs] = shape;
        let devices = if i < 8 { gpus() } else { fast_gpus() };
        if devices.is_empty() {
            continue;
        }
        let mut rng = rng(7);
        let w = normal_bf16(&mut rng, outputs * inputs);
        let dy = normal_bf16(&mut rng, tokens * outputs);
        for (double, added) in [(false, None), (true, None), (false, Some(0.5)), (true, Some(0.5))] {
            let quantized = |run: &Run| Nf4Tensor::quantize(&run.f32(&w, &[outputs, inputs]), double).unwrap();
            let run = |device: &Device| {
                let run = Run { device, dtype: DType::Bf16 };
                let (dy, weight) = (run.tensor(&dy, &[tokens, outputs]), Weight::Nf4(quantized(&run)));
                let mut dx = match added {
                    Some(value) => run.tensor(&vec![value; tokens * inputs], &[tokens, inputs]),
                    None => run.poisoned(&[tokens, inputs]),
                };
                linear::backward_input(&dy, &weight, &mut dx, added.is_some()).unwrap();
                dx.to_f32().unwrap()
            };
            let cpu = Run { device: &Device::Cpu, dtype: DType::Bf16 };
            let weight = quantized(&cpu).to_f32().unwrap();
            let exact = input_gradient(&dy, &weight, shape, added.map_or(0.0, f64::from));
            let textbook = run(&Device::Cpu);
            for device in &devices {
                let what = format!("{shape:?}, double {double}, added to {added:?}, on {device}");
                let found = run(device);
                assert_as_good(&what, &found, &textbook, &exact, 1e-6);
                let once = under_sanitizer() || is_emulator(device);
                assert!(once || found == run(device), "{what}: a second run gave other bytes");
            }
        }
    }
}

#[test]
fn many_tokens_over_nf4_give_the_products_of_the_dequantised_weight() {
    // Outputs and tokens off the tiles; inputs of one stage and of more than the ring holds.
    for [tokens, outputs, inputs] in
        [[130, 4096, 128], [129, 1032, 512], [300, 8200, 256], [600, 2056, 1280], [768, 4096, 512], [330, 8200, 256]]
    {
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

#[test]
fn layers_of_many_tokens_over_nf4_are_what_each_is_alone() {
    // For a GPU alone. Outputs and tokens off the tiles, of two layers and of three.
    for ([tokens, inputs], outputs) in [
        ([257, 384], &[4104, 4096][..]),
        ([384, 1024], &[4096, 1024, 1032]),
        ([640, 4096], &[2056, 2048]),
        ([768, 512], &[14336, 14336]),
        ([1000, 1280], &[8200, 136, 8192]),
    ] {
        for device in fast_gpus() {
            let mut rng = rng(3);
            let run = Run { device: &device, dtype: DType::Bf16 };
            let x = run.tensor(&normal_bf16(&mut rng, tokens * inputs), &[tokens, inputs]);
            let weights: Vec<_> = outputs
                .iter()
                .map(|&n| {
                    let w = run.f32(&normal_bf16(&mut rng, n * inputs), &[n, inputs]);
                    Weight::Nf4(Nf4Tensor::quantize(&w, false).unwrap())
                })
                .collect();
            let products = |together: bool| -> Vec<Vec<f32>> {
                let mut ys: Vec<_> = outputs.iter().map(|&n| run.poisoned(&[tokens, n])).collect();
                let mut layers: Vec<_> = weights.iter().zip(&mut ys).collect();
                match together {
                    true => linear::forward_all(&x, &mut layers).unwrap(),
                    false => layers.iter_mut().for_each(|(weight, y)| linear::forward(&x, weight, y).unwrap()),
                }
                ys.iter().map(|y| y.to_f32().unwrap()).collect()
            };
            let [together, again, alone] = [true, true, false].map(products);
            for (i, n) in outputs.iter().enumerate() {
                let what = format!("{tokens}x{inputs}, {n} of {outputs:?}");
                assert_close(&what, &together[i], &alone[i], 4e-3);
                assert!(under_sanitizer() || together[i] == again[i], "{what}: a second run gave other bytes");
            }
        }
    }
}

#[test]
fn input_gradient_of_many_tokens_over_nf4() {
    // For a GPU alone. Outputs, inputs and tokens off the tiles; an odd number of stages, few, and more than the ring holds; tiles
    // that are one round and several, whole and in parts.
    for ([tokens, inputs], outputs) in [
        ([130, 4096], [1000, 328]),
        ([200, 4352], [264, 4096]),
        ([257, 4096], [2056, 1032]),
        ([520, 4416], [1032, 200]),
        ([512, 2048], [4104, 520]),
        ([777, 8448], [840, 1288]),
        ([768, 4096], [1032, 4096]),
        ([1000, 1536], [4096, 72]),
        ([1100, 2112], [2056, 264]),
    ] {
        for device in fast_gpus() {
            let mut rng = rng(9);
            let run = Run { device: &device, dtype: DType::Bf16 };
            for double in [false, true] {
                if double && inputs % 256 != 0 {
                    continue;
                }
                let dys = outputs.map(|n| run.tensor(&normal_bf16(&mut rng, tokens * n), &[tokens, n]));
                let weights = outputs.map(|n| {
                    let w = run.f32(&normal_bf16(&mut rng, n * inputs), &[n, inputs]);
                    let nf4 = Nf4Tensor::quantize(&w, double).unwrap();
                    let mut dense = run.poisoned(&[n, inputs]);
                    nf4::dequantize(&nf4, &mut dense).unwrap();
                    [Weight::Nf4(nf4), Weight::Dense(dense)]
                });
                let gradients = |form: usize| {
                    let products: Vec<_> = dys.iter().zip(&weights).map(|(dy, weight)| (dy, &weight[form])).collect();
                    let mut one = run.poisoned(&[tokens, inputs]);
                    linear::backward_input(products[0].0, products[0].1, &mut one, false).unwrap();
                    let mut added = run.tensor(&vec![8.0; tokens * inputs], &[tokens, inputs]);
                    linear::backward_input(products[0].0, products[0].1, &mut added, true).unwrap();
                    let mut sum = run.poisoned(&[tokens, inputs]);
                    linear::backward_inputs(&products, &mut sum).unwrap();
                    [one, added, sum].map(|dx| dx.to_f32().unwrap())
                };
                let [fused, again, apart] = [0, 0, 1].map(gradients);
                for (i, what) in ["one layer", "added to", "two layers"].into_iter().enumerate() {
                    let what = format!("{tokens}x{inputs}, {outputs:?}, double {double}: {what}");
                    assert_close(&what, &fused[i], &apart[i], 6e-3);
                    assert!(under_sanitizer() || fused[i] == again[i], "{what}: a second run gave other bytes");
                }
            }
        }
    }
}

/// Layers of one x, dense or in 4 bits with scales double-quantised or not: y of all, and dx of the first, the first two, and all.
#[test]
fn several_layers_of_few_tokens() {
    // Of Hopper's kernels; others take the layers one by one.
    let devices = fast_gpus();
    if devices.is_empty() {
        return;
    }
    for ([tokens, inputs], outputs) in [
        ([9, 512], [24, 136, 8]),
        ([33, 320], [520, 136, 264]),
        ([64, 768], [136, 1032, 24]),
        ([71, 4096], [1024, 1024, 4096]),
        ([80, 512], [2056, 40, 512]),
        ([93, 1280], [136, 24, 264]),
        ([128, 512], [520, 1032, 136]),
    ] {
        for double in [false, true] {
            if double && inputs % 256 != 0 {
                continue;
            }
            let what = format!("layers of {outputs:?} over {tokens}x{inputs}, double {double}");
            let mut rng = rng(8);
            let x = normal_bf16(&mut rng, tokens * inputs);
            let layers = outputs.map(|n| (n, normal_bf16(&mut rng, n * inputs), normal_bf16(&mut rng, tokens * n)));
            compare_as(&[DType::Bf16], &devices, &what, 2e-6, |run: &Run| {
                let weights = layers
                    .each_ref()
                    .map(|(n, w, _)| Weight::Nf4(Nf4Tensor::quantize(&run.f32(w, &[*n, inputs]), double).unwrap()));
                let mut ys = outputs.map(|n| run.poisoned(&[tokens, n]));
                let mut together: Vec<_> = weights.iter().zip(&mut ys).collect();
                linear::forward_all(&run.tensor(&x, &[tokens, inputs]), &mut together).unwrap();
                let dys = layers.each_ref().map(|(n, _, dy)| run.tensor(dy, &[tokens, *n]));
                let products: Vec<_> = dys.iter().zip(&weights).collect();
                let mut results = Vec::from(ys);
                for layers in 1..=3 {
                    let mut dx = run.poisoned(&[tokens, inputs]);
                    linear::backward_inputs(&products[..layers], &mut dx).unwrap();
                    results.push(dx);
                }
                results
            });
        }
    }
}

#[test]
fn gradient_of_an_input_of_several_layers() {
    let case = |[tokens, inputs]: [usize; 2], outputs: [usize; 3], nf4: bool| {
        let mut rng = rng(6);
        let layers = outputs
            .map(|outputs| (outputs, normal_bf16(&mut rng, outputs * inputs), normal_bf16(&mut rng, tokens * outputs)));
        move |run: &Run| {
            let weights = layers.each_ref().map(|(outputs, w, _)| match nf4 {
                true => Weight::Nf4(Nf4Tensor::quantize(&run.f32(w, &[*outputs, inputs]), false).unwrap()),
                false => Weight::Dense(run.tensor(w, &[*outputs, inputs])),
            });
            let dy = layers.each_ref().map(|(outputs, _, dy)| run.tensor(dy, &[tokens, *outputs]));
            let products: Vec<_> = dy.iter().zip(&weights).collect();
            (1..=3)
                .map(|layers| {
                    let mut dx = run.poisoned(&[tokens, inputs]);
                    linear::backward_inputs(&products[..layers], &mut dx).unwrap();
                    dx
                })
                .collect::<Vec<_>>()
        }
    };
    for nf4 in [false, true] {
        compare(&format!("inputs of several layers, 4 bits: {nf4}"), 2e-6, case([5, 64], [24, 40, 8], nf4));
        for (sizes, outputs) in
            [([768, 4096], [1024, 1024, 4096]), ([768, 4096], [14336, 14336, 64]), ([300, 576], [1536, 40, 576])]
        {
            compare_large(&format!("inputs of {outputs:?}, 4 bits: {nf4}"), 5e-6, || case(sizes, outputs, nf4));
        }
    }
}
