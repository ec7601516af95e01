//! Adapters made into one, against float64 with the weights' whole updates.

use crate::support;
use kiungo::formats::peft::{Adapter, AdapterConfig, Factors};
use kiungo::llama::config::Projection;
use kiungo::training::aggregate::{Aggregate, AggregateError, Method, aggregate};
use nalgebra::DMatrix;

const RANK: usize = 3;
const LAYERS: [(usize, Projection, usize, usize); 2] = [(0, Projection::Q, 12, 10), (2, Projection::Down, 7, 33)];

/// Starts from the same factors, as adapters do that are to become one, and differs from them by its seed's own.
fn adapter(seed: u64, alpha: f64) -> Adapter {
    let mut start = support::rng(99);
    let mut own = support::rng(seed);
    let mut values = |n: usize, size: f32| -> Vec<f32> {
        let start = support::normal(&mut start, n);
        start.iter().zip(support::normal(&mut own, n)).map(|(s, o)| size * (s + 0.5 * o)).collect()
    };
    let factors = LAYERS.map(|(block, projection, out, input)| {
        ((block, projection), Factors { a: values(RANK * input, 0.2), b: values(out * RANK, 0.1) })
    });
    let config = AdapterConfig { base_model: None, rank: RANK, alpha, dropout: 0.0, rslora: false, unknown: vec![] };
    Adapter { config, factors: factors.into() }
}

fn matrix(values: &[f32], rows: usize) -> DMatrix<f64> {
    DMatrix::from_row_iterator(rows, values.len() / rows, values.iter().map(|&v| f64::from(v)))
}

/// What an adapter adds to a weight.
fn update(adapter: &Adapter, (block, projection, out, _): (usize, Projection, usize, usize)) -> DMatrix<f64> {
    let factors = &adapter.factors[&(block, projection)];
    matrix(&factors.b, out) * matrix(&factors.a, RANK) * f64::from(adapter.config.scale())
}

/// `|dW - B A| / |dW|` over all layers.
fn residual(adapters: &[Adapter], shares: &[f64], one: &Adapter) -> f64 {
    let (mut missed, mut all) = (0.0, 0.0);
    for layer in LAYERS {
        let parts = adapters.iter().zip(shares).map(|(adapter, &share)| update(adapter, layer) * share);
        let meant: DMatrix<f64> = parts.sum();
        missed += (&meant - update(one, layer)).norm_squared();
        all += meant.norm_squared();
    }
    (missed / all).sqrt()
}

#[test]
fn the_corrected_average_is_nearer_than_the_average() {
    let adapters = [adapter(1, 6.0), adapter(2, 6.0), adapter(3, 12.0)];
    let (weights, shares) = ([1.0, 2.0, 1.0], [0.25, 0.5, 0.25]);
    let of = |method, lambda| aggregate(&adapters, &weights, method, lambda).unwrap();
    let Aggregate { adapter: average, residuals: [a, same] } = of(Method::Average, 0.01);
    let Aggregate { adapter: fair, residuals: [b, fairer] } = of(Method::LoraFair, 0.01);
    assert_eq!((a, a), (same, b));
    assert!(fairer < 0.95 * a, "{fairer} of {a}");
    for (found, one) in [(a, &average), (fairer, &fair)] {
        let expected = residual(&adapters, &shares, one);
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    for layer in LAYERS.map(|(block, projection, ..)| (block, projection)) {
        assert_eq!(fair.factors[&layer].a, average.factors[&layer].a);
    }
    // The penalty decides how far the correction goes: from all that helps to nothing.
    let [free, tight] = [1e-9, 1e9].map(|lambda| of(Method::LoraFair, lambda).residuals[1]);
    assert!(free <= fairer && fairer < tight, "{free}, {fairer}, {tight}");
    assert!((tight - a).abs() < 1e-6, "{tight} for {a}");
}

/// At the minimum of `|dW - (B̄ + D) Ā|² + λ |D|²` every small step from `D` makes it larger.
#[test]
fn the_correction_is_the_minimum() {
    let adapters = [adapter(4, 3.0), adapter(5, 3.0)];
    let lambda = 0.05;
    let [average, fair] =
        [Method::Average, Method::LoraFair].map(|m| aggregate(&adapters, &[1.0, 1.0], m, lambda).unwrap().adapter);
    let (block, projection, out, input) = LAYERS[0];
    let meant = (update(&adapters[0], LAYERS[0]) + update(&adapters[1], LAYERS[0])) * 0.5;
    let [b, fair_b] = [&average, &fair].map(|one| matrix(&one.factors[&(block, projection)].b, out));
    let a = matrix(&average.factors[&(block, projection)].a, RANK);
    assert_eq!(a.ncols(), input);
    let objective = |d: &DMatrix<f64>| (&meant - (&b + d) * &a).norm_squared() + lambda * d.norm_squared();
    let best = &fair_b - &b;
    let least = objective(&best);
    for i in 0..best.len() {
        for step in [1e-3, -1e-3] {
            let mut other = best.clone();
            other[i] += step;
            assert!(objective(&other) > least, "element {i}");
        }
    }
}

#[test]
fn equal_adapters_stay_as_they_are() {
    let adapters = [adapter(1, 6.0), adapter(1, 6.0)];
    let Aggregate { adapter, residuals } = aggregate(&adapters, &[3.0, 1.0], Method::LoraFair, 0.01).unwrap();
    assert!(residuals.iter().all(|&r| r < 1e-7), "{residuals:?}");
    for (layer, factors) in &adapter.factors {
        let expected = &adapters[0].factors[layer];
        support::assert_close("a", &factors.a, &expected.a, 1e-6);
        support::assert_close("b", &factors.b, &expected.b, 1e-6);
    }
}

#[test]
fn what_cannot_become_one_is_refused() {
    let [one, two] = [adapter(1, 6.0), adapter(2, 6.0)];
    let refused = |adapters: &[Adapter], weights: &[f64], lambda| {
        aggregate(adapters, weights, Method::LoraFair, lambda).unwrap_err().to_string()
    };
    let mut other = two.clone();
    other.config.rank = 4;
    let mut fewer = two.clone();
    fewer.factors.remove(&(2, Projection::Down));
    assert_eq!(refused(std::slice::from_ref(&one), &[1.0], 0.01), "1 adapters: at least two are needed");
    assert_eq!(
        refused(&[one.clone(), other], &[1.0, 1.0], 0.01),
        "adapter 2 has rank 4, and the first has 3: only equal ranks can be averaged"
    );
    assert_eq!(
        refused(&[one.clone(), fewer], &[1.0, 1.0], 0.01),
        "adapter 2 and the first adapt different layers: block 2, down_proj is in one alone"
    );
    for weights in [&[1.0][..], &[1.0, 0.0], &[1.0, f64::NAN], &[1.0, 1.0, 1.0]] {
        assert!(
            refused(&[one.clone(), two.clone()], weights, 0.01).contains("one number above 0 for each of 2 adapters")
        );
    }
    let error = aggregate(&[one, two], &[1.0, 1.0], Method::LoraFair, 0.0).unwrap_err();
    assert!(matches!(error, AggregateError::Lambda(_)));
}
