use crate::support::{
    assert_bf16, assert_close, assert_gradient, assert_same_for_any_threads, normal, normal_bf16, rng, tensor,
    tensor_as, widen,
};
use kiungo::device::{DType, Tensor};
use kiungo::ops::linear::Weight;
use kiungo::ops::lora::{self, Branch, Factors, Layer};
use kiungo::ops::philox::Dropout;

const TOKENS: usize = 5;
const IN: usize = 12;
const OUT: usize = 7;
const RANK: usize = 3;
const SCALE: f32 = 2.0;

fn dropout() -> Dropout {
    Dropout { probability: 0.3, seed: 9, stream: 4, step: 2, first: 0 }
}

/// `scale * (drop(x) A^T) B^T`.
fn reference(x: &[f64], a: &[f64], b: &[f64], dropout: Option<Dropout>) -> Vec<f64> {
    let dropped = |(i, &x): (usize, &f64)| match dropout {
        Some(d) if d.keep(i as u64) => x / (1.0 - f64::from(d.probability)),
        Some(_) => 0.0,
        None => x,
    };
    let x: Vec<f64> = x.iter().enumerate().map(dropped).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let row = |x: &[f64]| {
        let s: Vec<f64> = a.chunks(IN).map(|a| dot(a, x)).collect();
        b.chunks(RANK).map(|b| f64::from(SCALE) * dot(b, &s)).collect::<Vec<_>>()
    };
    x.chunks(IN).flat_map(row).collect()
}

struct Case {
    x: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
}

fn case(seed: u64) -> Case {
    let mut rng = rng(seed);
    Case {
        x: normal_bf16(&mut rng, TOKENS * IN),
        a: normal(&mut rng, RANK * IN),
        b: normal(&mut rng, OUT * RANK),
        dy: normal_bf16(&mut rng, TOKENS * OUT),
    }
}

#[test]
fn forward_adds_the_low_rank_product() {
    let Case { x, a, b, dy: before } = case(1);
    for dropout in [None, Some(dropout())] {
        let product = reference(&widen(&x), &widen(&a), &widen(&b), dropout);
        let expected: Vec<f64> = product.iter().zip(&before).map(|(p, &y)| p + f64::from(y)).collect();
        for dtype in [DType::F32, DType::Bf16] {
            let (a, b) = (tensor(&a, &[RANK, IN]), tensor(&b, &[OUT, RANK]));
            let factors = Factors { a: &a, b: &b, scale: SCALE, dropout, state: None };
            let mut y = tensor_as(dtype, &before, &[TOKENS, OUT]);
            let mut s = crate::support::poisoned(&[TOKENS, RANK]);
            lora::forward(&tensor_as(dtype, &x, &[TOKENS, IN]), &factors, &mut s, &mut y).unwrap();
            match dtype {
                DType::F32 => assert_close("y", y.as_slice::<f32>().unwrap(), &expected, 1e-6),
                _ => assert_bf16("y", &y, &expected),
            }
        }
    }
}

#[test]
fn gradients_match_central_differences_and_add() {
    let Case { x, a, b, dy } = case(2);
    for dropout in [None, Some(dropout())] {
        let (at, bt) = (tensor(&a, &[RANK, IN]), tensor(&b, &[OUT, RANK]));
        let factors = Factors { a: &at, b: &bt, scale: SCALE, dropout, state: None };
        let (xt, dyt) = (tensor(&x, &[TOKENS, IN]), tensor(&dy, &[TOKENS, OUT]));
        let (mut s, mut ds) = (crate::support::poisoned(&[TOKENS, RANK]), crate::support::poisoned(&[TOKENS, RANK]));
        let mut y = tensor(&[0.0; TOKENS * OUT], &[TOKENS, OUT]);
        lora::forward(&xt, &factors, &mut s, &mut y).unwrap();
        let ones = |shape: &[usize]| tensor(&vec![1.0; shape.iter().product()], shape);
        let (mut da, mut db, mut dx) = (ones(&[RANK, IN]), ones(&[OUT, RANK]), ones(&[TOKENS, IN]));
        lora::backward(&dyt, &xt, &s, &factors, &mut ds, &mut da, &mut db, Some(&mut dx)).unwrap();
        let added = |t: &Tensor| t.as_slice::<f32>().unwrap().iter().map(|v| v - 1.0).collect::<Vec<f32>>();
        let loss = |x: &[f64], a: &[f64], b: &[f64]| -> f64 {
            reference(x, a, b, dropout).iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum()
        };
        let (x, a, b) = (widen(&x), widen(&a), widen(&b));
        assert_gradient("dx", &x, &added(&dx), 1e-6, |x| loss(x, &a, &b));
        assert_gradient("da", &a, &added(&da), 1e-6, |a| loss(&x, a, &b));
        assert_gradient("db", &b, &added(&db), 1e-6, |b| loss(&x, &a, b));
    }
}

#[test]
fn layers_of_one_x_are_what_each_is_alone() {
    let Case { x, a, b, dy } = case(4);
    let other = case(5);
    let (x, dys) = (tensor(&x, &[TOKENS, IN]), [dy, other.dy].map(|dy| tensor(&dy, &[TOKENS, OUT])));
    let (weight, factors) = (Weight::Dense(tensor(&[0.5; OUT * IN], &[OUT, IN])), [[a, b], [other.a, other.b]]);
    let factors = factors.map(|[a, b]| [tensor(&a, &[RANK, IN]), tensor(&b, &[OUT, RANK])]);
    let factors = factors.each_ref().map(|[a, b]| Factors { dropout: Some(dropout()), ..Factors::new(a, b, SCALE) });
    let zeros = |shape: &[usize]| tensor(&vec![0.0; shape.iter().product()], shape);
    let run = |each_alone: bool| {
        let [mut y, mut s, mut ds] = [OUT, RANK, RANK].map(|columns| [0; 2].map(|_| zeros(&[TOKENS, columns])));
        let [mut da, mut db] = [[RANK, IN], [OUT, RANK]].map(|shape| [0; 2].map(|_| zeros(&shape)));
        let mut dx = zeros(&[TOKENS, IN]);
        let adapters = factors.into_iter().zip(&mut s).map(Some);
        let mut layers: Vec<_> =
            adapters.zip(&mut y).map(|(adapter, y)| Layer { weight: &weight, adapter, y }).collect();
        layers.chunks_mut(if each_alone { 1 } else { 2 }).for_each(|layers| lora::layers(&x, layers).unwrap());
        let gradients = ds.iter_mut().zip(&mut da).zip(&mut db);
        let mut branches: Vec<_> = (dys.iter().zip(&s).zip(factors).zip(gradients))
            .map(|(((dy, s), factors), ((ds, da), db))| Branch { dy, s, factors, ds, da, db })
            .collect();
        for branches in branches.chunks_mut(if each_alone { 1 } else { 2 }) {
            lora::backward_all(&x, branches, Some(&mut dx)).unwrap();
        }
        let all = y.iter().chain(&s).chain(&ds).chain(&da).chain(&db).chain([&dx]);
        all.map(|t| t.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let (tokens, inputs) = (67, 96);
    let mut rng = rng(3);
    let (x, a, b) = (normal(&mut rng, tokens * inputs), normal(&mut rng, 4 * inputs), normal(&mut rng, 40 * 4));
    assert_same_for_any_threads("lora", || {
        let (a, b) = (tensor(&a, &[4, inputs]), tensor(&b, &[40, 4]));
        let factors = Factors { a: &a, b: &b, scale: SCALE, dropout: Some(dropout()), state: None };
        let (mut s, mut y) =
            (tensor(&vec![0.0; tokens * 4], &[tokens, 4]), tensor(&vec![0.0; tokens * 40], &[tokens, 40]));
        lora::forward(&tensor(&x, &[tokens, inputs]), &factors, &mut s, &mut y).unwrap();
        y.to_vec().unwrap()
    });
}

#[test]
fn wrong_shapes_are_named() {
    let (a, b) = (tensor(&[0.0; 6], &[2, 3]), tensor(&[0.0; 12], &[4, 3]));
    let factors = Factors { a: &a, b: &b, scale: 1.0, dropout: None, state: None };
    let (x, mut s, mut y) = (tensor(&[0.0; 3], &[1, 3]), tensor(&[0.0; 2], &[1, 2]), tensor(&[0.0; 4], &[1, 4]));
    let error = lora::forward(&x, &factors, &mut s, &mut y).unwrap_err().to_string();
    assert_eq!(error, "lora: b has shape [4, 3], expected [4, 2]");
}

#[test]
fn rank_0_is_refused() {
    let (a, b) = (tensor(&[], &[0, 3]), tensor(&[], &[4, 0]));
    let factors = Factors { a: &a, b: &b, scale: 1.0, dropout: None, state: None };
    let (x, mut s, mut y) = (tensor(&[0.0; 3], &[1, 3]), tensor(&[], &[1, 0]), tensor(&[0.0; 4], &[1, 4]));
    let forward = lora::forward(&x, &factors, &mut s, &mut y).unwrap_err().to_string();
    assert_eq!(forward, "lora: an adapter of rank 0 has no factors");
    let (mut ds, mut da, mut db) = (tensor(&[], &[1, 0]), tensor(&[], &[0, 3]), tensor(&[], &[4, 0]));
    let backward = lora::backward(&y, &x, &s, &factors, &mut ds, &mut da, &mut db, None).unwrap_err().to_string();
    assert_eq!(backward, "lora backward: an adapter of rank 0 has no factors");
}
