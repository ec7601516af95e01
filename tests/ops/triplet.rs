use crate::support::{assert_close, assert_gradient, normal, poisoned, rng, tensor, widen};
use kiungo::device::{Device, Tensor};
use kiungo::ops::triplet::{self, Direction};
use rand::Rng;

const MARGIN: f32 = 0.4;

/// The definition: the hardest negative of each row, and of each column.
fn reference(s: &[f64], n: usize, excluded: Option<&[u8]>, direction: Direction) -> f64 {
    let negative = |i: usize, j: usize| i != j && excluded.is_none_or(|e| e[i * n + j] == 0);
    let hinge = |hardest: f64, i: usize| (MARGIN as f64 + hardest - s[i * n + i]).max(0.0);
    let largest = |entries: Vec<(usize, usize)>| {
        let negatives = entries.into_iter().filter(|&(i, j)| negative(i, j));
        negatives.map(|(i, j)| s[i * n + j]).fold(f64::NEG_INFINITY, f64::max)
    };
    let rows = (0..n).map(|i| hinge(largest((0..n).map(|j| (i, j)).collect()), i)).sum::<f64>() / n as f64;
    let columns = (0..n).map(|j| hinge(largest((0..n).map(|i| (i, j)).collect()), j)).sum::<f64>() / n as f64;
    match direction {
        Direction::Forward => rows,
        Direction::Both => (rows + columns) / 2.0,
    }
}

fn hardest(s: &[f32], n: usize, excluded: Option<&[u8]>, direction: Direction) -> (f32, Vec<f32>) {
    let excluded = excluded.map(|e| Tensor::from_slice(&Device::Cpu, e, &[n, n]).unwrap());
    let (mut loss, mut ds) = (poisoned(&[1]), poisoned(&[n, n]));
    triplet::hardest(&tensor(s, &[n, n]), excluded.as_ref(), direction, MARGIN, &mut loss, &mut ds).unwrap();
    (loss.to_f32().unwrap()[0], ds.to_f32().unwrap())
}

#[test]
fn hardest_negatives_match_float64() {
    for n in [1, 2, 7, 33] {
        let mut rng = rng(n as u64);
        let s: Vec<f32> = normal(&mut rng, n * n).iter().map(|v| v * 0.3).collect();
        let mask: Vec<u8> = (0..n * n).map(|_| rng.random_bool(0.6).into()).collect();
        for direction in [Direction::Forward, Direction::Both] {
            for excluded in [None, Some(&mask[..])] {
                let (loss, ds) = hardest(&s, n, excluded, direction);
                let expected = |s: &[f64]| reference(s, n, excluded, direction);
                assert_close("loss", &[loss], &[expected(&widen(&s))], 1e-6);
                assert_gradient("dsimilarity", &widen(&s), &ds, 1e-6, expected);
            }
        }
    }
}

#[test]
fn no_negative_no_loss() {
    assert_eq!(hardest(&[-1.0], 1, None, Direction::Both), (0.0, vec![0.0]));
    let apart = hardest(&[0.1, 0.9, 0.8, 0.2], 2, Some(&[1, 1, 1, 1]), Direction::Both);
    assert_eq!(apart, (0.0, vec![0.0; 4]));
}

#[test]
fn of_equal_negatives_the_first_takes_the_gradient() {
    let s = [0.5, 0.3, 0.3, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let (_, ds) = hardest(&s, 3, None, Direction::Forward);
    assert_eq!(ds, [-1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_nan_reaches_the_loss() {
    for at in 0..3 {
        let mut s = [0.9, 0.1, 0.2, 0.1, 0.9, 0.2, 0.1, 0.2, 0.9];
        s[at] = f32::NAN;
        assert!(hardest(&s, 3, None, Direction::Forward).0.is_nan(), "NaN at {at}");
    }
}

#[test]
fn given_negatives_match_central_differences() {
    for (n, hidden) in [(1, 3), (16, 17)] {
        let mut rng = rng(4);
        let rows: Vec<Vec<f32>> = (0..3).map(|_| normal(&mut rng, n * hidden)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let expected = |rows: [&[f64]; 3]| {
            let [a, p, m] = rows.map(|r| r.chunks(hidden));
            let hinge = |((a, p), m)| ((1.0 - dot(a, p)) - (1.0 - dot(a, m)) + MARGIN as f64).max(0.0);
            a.zip(p).zip(m).map(hinge).sum::<f64>() / n as f64
        };
        let shape = [n, hidden];
        let [a, p, m] = [0, 1, 2].map(|i| tensor(&rows[i], &shape));
        let mut loss = poisoned(&[1]);
        let [mut da, mut dp, mut dm] = [0; 3].map(|_| poisoned(&shape));
        triplet::given(&a, &p, &m, MARGIN, &mut loss, &mut da, &mut dp, &mut dm).unwrap();

        let [a, p, m] = [0, 1, 2].map(|i| widen(&rows[i]));
        let value = expected([&a, &p, &m]);
        assert!(value > 0.0 || n == 1);
        assert_close("loss", loss.as_slice::<f32>().unwrap(), &[value], 1e-6);
        assert_gradient("danchor", &a, da.as_slice().unwrap(), 1e-6, |a| expected([a, &p, &m]));
        assert_gradient("dpositive", &p, dp.as_slice().unwrap(), 1e-6, |p| expected([&a, p, &m]));
        assert_gradient("dnegative", &m, dm.as_slice().unwrap(), 1e-6, |m| expected([&a, &p, m]));
    }
}

#[test]
fn bad_arguments_are_named() {
    let (mut loss, mut ds) = (poisoned(&[1]), poisoned(&[2, 2]));
    let s = tensor(&[0.0; 4], &[2, 2]);
    let error = triplet::hardest(&s, None, Direction::Both, -0.1, &mut loss, &mut ds).unwrap_err();
    assert_eq!(error.to_string(), "triplet: margin is -0.1, expected 0 or more");
    let mask = Tensor::from_slice(&Device::Cpu, &[0u8; 2], &[2, 1]).unwrap();
    let error = triplet::hardest(&s, Some(&mask), Direction::Both, 0.1, &mut loss, &mut ds).unwrap_err();
    assert_eq!(error.to_string(), "triplet: excluded has shape [2, 1], expected [2, 2]");
}
