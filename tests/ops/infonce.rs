use crate::support::{assert_close, assert_gradient, normal, poisoned, rng, tensor, widen};
use kiungo::device::{Device, Tensor};
use kiungo::ops::infonce::{self, Direction};
use rand::Rng;

/// The definition, one row or column at a time.
fn reference(s: &[f64], n: usize, excluded: Option<&[u8]>, temperature: f64, direction: Direction) -> f64 {
    let kept = |i: usize, j: usize| i == j || excluded.is_none_or(|e| e[i * n + j] == 0);
    let term = |entries: Vec<(usize, usize)>, i: usize| {
        let logits = entries.into_iter().filter(|&(i, j)| kept(i, j)).map(|(i, j)| s[i * n + j] / temperature);
        logits.map(f64::exp).sum::<f64>().ln() - s[i * n + i] / temperature
    };
    let rows = (0..n).map(|i| term((0..n).map(|j| (i, j)).collect(), i)).sum::<f64>() / n as f64;
    let columns = (0..n).map(|j| term((0..n).map(|i| (i, j)).collect(), j)).sum::<f64>() / n as f64;
    match direction {
        Direction::Forward => rows,
        Direction::Both => (rows + columns) / 2.0,
    }
}

fn run(s: &[f32], n: usize, excluded: Option<&[u8]>, temperature: f32, direction: Direction) -> (f32, Vec<f32>) {
    let excluded = excluded.map(|e| Tensor::from_slice(&Device::Cpu, e, &[n, n]).unwrap());
    let (mut loss, mut ds) = (poisoned(&[1]), poisoned(&[n, n]));
    infonce::forward(&tensor(s, &[n, n]), excluded.as_ref(), temperature, direction, &mut loss, &mut ds).unwrap();
    (loss.to_f32().unwrap()[0], ds.to_f32().unwrap())
}

#[test]
fn loss_and_gradient_match_float64() {
    for n in [1, 2, 7, 33] {
        let mut rng = rng(n as u64);
        let s: Vec<f32> = normal(&mut rng, n * n).iter().map(|v| v * 0.3).collect();
        let mask: Vec<u8> = (0..n * n).map(|_| rng.random_bool(0.3).into()).collect();
        for direction in [Direction::Forward, Direction::Both] {
            for excluded in [None, Some(&mask[..])] {
                let (loss, ds) = run(&s, n, excluded, 0.2, direction);
                let expected = |s: &[f64]| reference(s, n, excluded, 0.2f32.into(), direction);
                assert_close("loss", &[loss], &[expected(&widen(&s))], 1e-6);
                assert_gradient("dsimilarity", &widen(&s), &ds, 1e-6, expected);
            }
        }
    }
}

#[test]
fn large_logits_neither_overflow_nor_lose_a_small_loss() {
    // Logits of +-1e4: without subtracting the maximum every exponential overflows.
    let (loss, ds) = run(&[1.0, -1.0, -1.0, 1.0], 2, None, 1e-4, Direction::Both);
    assert_eq!(loss, 0.0);
    assert_eq!(ds, [0.0; 4]);
    // Margin of 20 nats: loss ln(1 + exp(-20)), far below the rounding of a logit in f32.
    let (loss, ds) = run(&[1.0, 0.0, 0.0, 1.0], 2, None, 0.05, Direction::Forward);
    let exact = (-1.0 / 0.05f32 as f64).exp().ln_1p();
    assert_close("loss", &[loss], &[exact], 1e-6);
    let slope = exact / 2.0 / 0.05f32 as f64;
    assert_close("dsimilarity", &ds, &[-slope, slope, slope, -slope], 1e-6);
}

#[test]
fn a_pair_without_negatives_adds_zero() {
    let (loss, ds) = run(&[0.1, 0.9, 0.8, 0.2], 2, Some(&[0, 1, 1, 0]), 0.05, Direction::Both);
    assert_eq!((loss, ds), (0.0, vec![0.0; 4]));
}

#[test]
fn a_nan_reaches_the_loss() {
    let (loss, _) = run(&[0.1, f32::NAN, 0.8, 0.2], 2, None, 0.05, Direction::Forward);
    assert!(loss.is_nan());
}

#[test]
fn bad_arguments_are_named() {
    let (mut loss, mut ds) = (poisoned(&[1]), poisoned(&[2, 2]));
    let s = tensor(&[0.0; 4], &[2, 2]);
    let error = infonce::forward(&s, None, 0.0, Direction::Both, &mut loss, &mut ds).unwrap_err();
    assert_eq!(error.to_string(), "infonce: temperature is 0, expected a number above 0");
    let wide = tensor(&[0.0; 6], &[2, 3]);
    let error = infonce::forward(&wide, None, 1.0, Direction::Both, &mut loss, &mut ds).unwrap_err();
    assert_eq!(error.to_string(), "infonce: similarity has shape [2, 3], expected [2, 2]");
    let error = infonce::forward(&tensor(&[], &[0, 0]), None, 1.0, Direction::Both, &mut loss, &mut ds).unwrap_err();
    assert_eq!(error.to_string(), "infonce: a batch needs at least one pair");
    assert_eq!("both".parse(), Ok(Direction::Both));
    assert!("back".parse::<Direction>().unwrap_err().contains("forward or both"));
}
