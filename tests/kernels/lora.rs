use super::{Run, compare, compare_large};
use crate::support::{assert_as_good, fast_gpus, normal, normal_bf16, rng, tensor_as, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::lora::{self, Branch, Factors, Layer};
use kiungo::ops::nf4::Nf4Tensor;
use kiungo::ops::philox::Dropout;

#[test]
fn forward_and_backward() {
    let drop = Dropout { probability: 0.3, seed: 9, stream: 4, step: 2, first: 0 };
    let case = |[tokens, inputs, outputs, rank]: [usize; 4], dropout: Option<Dropout>| {
        let mut rng = rng(1);
        let [x, dx] = [0; 2].map(|_| normal_bf16(&mut rng, tokens * inputs));
        let [y, dy] = [0; 2].map(|_| normal_bf16(&mut rng, tokens * outputs));
        let [a, da] = [0; 2].map(|_| normal(&mut rng, rank * inputs));
        let [b, db] = [0; 2].map(|_| normal(&mut rng, outputs * rank));
        move |run: &Run| {
            let (a, b) = (run.f32(&a, &[rank, inputs]), run.f32(&b, &[outputs, rank]));
            let factors = Factors { a: &a, b: &b, scale: 2.0, dropout, state: None };
            let (x, dy) = (run.tensor(&x, &[tokens, inputs]), run.tensor(&dy, &[tokens, outputs]));
            let [mut s, mut ds] = [0; 2].map(|_| run.poisoned_as(DType::F32, &[tokens, rank]));
            let mut y = run.tensor(&y, &[tokens, outputs]);
            lora::forward(&x, &factors, &mut s, &mut y).unwrap();
            let (mut da, mut db) = (run.f32(&da, &[rank, inputs]), run.f32(&db, &[outputs, rank]));
            let mut dx = run.tensor(&dx, &[tokens, inputs]);
            lora::backward(&dy, &x, &s, &factors, &mut ds, &mut da, &mut db, Some(&mut dx)).unwrap();
            vec![s, y, ds, da, db, dx]
        }
    };
    for dropout in [None, Some(drop)] {
        for shape in [[1, 8, 24, 1], [3, 40, 72, 5], [127, 72, 40, 16], [129, 33, 65, 20]] {
            compare(&format!("lora {shape:?} {dropout:?}"), 8e-6, case(shape, dropout));
        }
        for shape in [
            [1, 4096, 1024, 16],
            [3, 576, 1536, 8],
            [127, 1536, 576, 16],
            [129, 4096, 4096, 16],
            [1000, 1536, 4096, 64],
        ] {
            compare_large(&format!("lora {shape:?} {dropout:?}"), 1e-5, || case(shape, dropout));
        }
    }
}

#[test]
fn a_layer_with_its_adapter() {
    let drop = Dropout { probability: 0.3, seed: 9, stream: 4, step: 2, first: 0 };
    let case = |[tokens, inputs, outputs, rank]: [usize; 4], dropout, quantized: bool| {
        let mut rng = rng(1);
        let (x, w) = (normal_bf16(&mut rng, tokens * inputs), normal_bf16(&mut rng, outputs * inputs));
        let (a, b) = (normal(&mut rng, rank * inputs), normal(&mut rng, outputs * rank));
        move |run: &Run| {
            let (a, b) = (run.f32(&a, &[rank, inputs]), run.f32(&b, &[outputs, rank]));
            let factors = Factors { dropout, ..Factors::new(&a, &b, 0.5) };
            let weight = match quantized {
                true => Weight::Nf4(Nf4Tensor::quantize(&run.f32(&w, &[outputs, inputs]), false).unwrap()),
                false => Weight::Dense(run.tensor(&w, &[outputs, inputs])),
            };
            let mut s = run.poisoned_as(DType::F32, &[tokens, rank]);
            let mut y = run.poisoned(&[tokens, outputs]);
            lora::linear(&run.tensor(&x, &[tokens, inputs]), &weight, &factors, &mut s, &mut y).unwrap();
            vec![s, y]
        }
    };
    for quantized in [false, true] {
        for dropout in [None, Some(drop)] {
            let what = format!("a layer with its adapter, {dropout:?}, NF4 {quantized}");
            compare(&what, 8e-6, case([5, 64, 24, 3], dropout, quantized));
            for shape in [[300, 576, 1536, 5], [1000, 1536, 576, 16], [768, 4096, 4096, 16], [4096, 1024, 1024, 16]] {
                compare_large(&format!("{what} {shape:?}"), 1e-5, || case(shape, dropout, quantized));
            }
        }
    }
}

/// More than 32 ranks may be rounded as autocast does: the textbook has factors and s in bf16.
#[test]
fn a_layer_with_an_adapter_of_many_ranks() {
    const SCALE: f32 = 0.5;
    let drop = Dropout { probability: 0.3, seed: 9, stream: 4, step: 2, first: 0 };
    for gpu in fast_gpus() {
        for ([tokens, inputs, outputs, rank], dropout) in
            [([4096, 1024, 1024, 64], None), ([4096, 512, 4096, 64], None), ([1000, 1536, 576, 40], Some(drop))]
        {
            let mut rng = rng(1);
            let (x, w) = (normal_bf16(&mut rng, tokens * inputs), normal_bf16(&mut rng, outputs * inputs));
            let (a, b) = (normal(&mut rng, rank * inputs), normal(&mut rng, outputs * rank));
            let outputs_of = |device: &Device, dtype, [a, b]: [&[f32]; 2]| {
                let run = Run { device, dtype };
                let (a, b) = (run.f32(a, &[rank, inputs]), run.f32(b, &[outputs, rank]));
                let factors = Factors { dropout, ..Factors::new(&a, &b, SCALE) };
                let weight = Weight::Dense(run.tensor(&w, &[outputs, inputs]));
                let mut s = run.poisoned_as(DType::F32, &[tokens, rank]);
                let mut y = run.poisoned(&[tokens, outputs]);
                lora::linear(&run.tensor(&x, &[tokens, inputs]), &weight, &factors, &mut s, &mut y).unwrap();
                [s, y].map(|t| t.to_f32().unwrap())
            };
            let exact = outputs_of(&Device::Cpu, DType::F32, [&a, &b]);
            let of_rounded = outputs_of(&Device::Cpu, DType::F32, [&bf16(&a), &bf16(&b)]);
            // What rounding s changes is added to y.
            let s = bf16(&of_rounded[0]);
            let change: Vec<f32> = s.iter().zip(&of_rounded[0]).map(|(rounded, s)| SCALE * (rounded - s)).collect();
            let mut y = tensor_as(DType::F32, &vec![0.0; tokens * outputs], &[tokens, outputs]);
            let right = Weight::Dense(tensor_as(DType::F32, &bf16(&b), &[outputs, rank]));
            linear::forward(&tensor_as(DType::F32, &change, &[tokens, rank]), &right, &mut y).unwrap();
            let y: Vec<f32> = y.to_f32().unwrap().iter().zip(&of_rounded[1]).map(|(change, y)| change + y).collect();
            let found = outputs_of(&gpu, DType::Bf16, [&a, &b]);
            for (name, i, textbook) in [("s", 0, s), ("y", 1, bf16(&y))] {
                let what = format!("{name} of {tokens}x{inputs}x{outputs}, {rank} ranks on {gpu}");
                assert_as_good(&what, &found[i], &textbook, &widen(&exact[i]), 1e-5);
            }
        }
    }
}

fn bf16(x: &[f32]) -> Vec<f32> {
    tensor_as(DType::Bf16, x, &[x.len(), 1]).to_f32().unwrap()
}

#[test]
fn layers_of_one_x() {
    // Outputs of layers with an adapter each, but the second; every layer has a dropout of its own.
    let case = |[tokens, inputs, rank]: [usize; 3], outputs: [usize; 3], probability: f32| {
        let mut rng = rng(1);
        let [x, dx] = [0; 2].map(|_| normal_bf16(&mut rng, tokens * inputs));
        let layers = outputs.map(|outputs| {
            let (w, dy) = (normal_bf16(&mut rng, outputs * inputs), normal_bf16(&mut rng, tokens * outputs));
            (outputs, w, dy, normal(&mut rng, rank * inputs), normal(&mut rng, outputs * rank))
        });
        move |run: &Run| {
            let (x, mut dx) = (run.tensor(&x, &[tokens, inputs]), run.tensor(&dx, &[tokens, inputs]));
            let weights = layers.each_ref().map(|(outputs, w, ..)| Weight::Dense(run.tensor(w, &[*outputs, inputs])));
            let tensors: [(Tensor, Tensor, Tensor); 3] = layers.each_ref().map(|(outputs, _, dy, a, b)| {
                (run.tensor(dy, &[tokens, *outputs]), run.f32(a, &[rank, inputs]), run.f32(b, &[*outputs, rank]))
            });
            let factors = |i: usize| {
                let drop = Dropout { probability, seed: 9, stream: i as u32, step: 2, first: 0 };
                Factors { dropout: Some(drop), ..Factors::new(&tensors[i].1, &tensors[i].2, 0.5) }
            };
            let mut y = outputs.map(|outputs| run.poisoned(&[tokens, outputs]));
            let mut s = [0; 3].map(|_| run.poisoned_as(DType::F32, &[tokens, rank]));
            let layer = |(i, (y, s)): (usize, (_, _))| Layer {
                weight: &weights[i],
                adapter: (i != 1).then(|| (factors(i), s)),
                y,
            };
            lora::layers(&x, &mut y.iter_mut().zip(&mut s).enumerate().map(layer).collect::<Vec<_>>()).unwrap();
            let mut ds = [0; 3].map(|_| run.poisoned_as(DType::F32, &[tokens, rank]));
            let mut da = [0; 3].map(|_| run.f32(&vec![0.5; rank * inputs], &[rank, inputs]));
            let mut db = outputs.map(|outputs| run.f32(&vec![0.5; outputs * rank], &[outputs, rank]));
            let gradients = ds.iter_mut().zip(&mut da).zip(&mut db).enumerate().filter(|(i, _)| *i != 1);
            let branch = |(i, ((ds, da), db)): (usize, ((_, _), _))| Branch {
                dy: &tensors[i].0,
                s: &s[i],
                factors: factors(i),
                ds,
                da,
                db,
            };
            lora::backward_all(&x, &mut gradients.map(branch).collect::<Vec<_>>(), Some(&mut dx)).unwrap();
            let ([s0, _, s2], [ds0, _, ds2], [da0, _, da2], [db0, _, db2]) = (s, ds, da, db);
            y.into_iter().chain([s0, s2, ds0, ds2, da0, da2, db0, db2, dx]).collect()
        }
    };
    for probability in [0.0, 0.3] {
        compare(&format!("layers, {probability}"), 8e-6, case([5, 64, 3], [24, 40, 72], probability));
        compare(&format!("layers, {probability}"), 8e-6, case([70, 24, 20], [8, 16, 136], probability));
        for (sizes, outputs) in [
            ([80, 4096, 16], [4096, 1024, 1024]),
            ([768, 4096, 16], [4096, 1024, 1024]),
            ([300, 1536, 32], [576, 1536, 4096]),
            ([2048, 1024, 8], [4096, 1024, 64]),
        ] {
            compare_large(&format!("layers {sizes:?}, {probability}"), 1e-5, || case(sizes, outputs, probability));
        }
    }
}
