//! Several adapters of one base made into one: their average, and what the average of factors loses put back.
//!
//! With shares `p_k` that sum to 1, adapters `B_k A_k` together mean `dW = sum p_k B_k A_k`. The average of their factors,
//! `Ā = sum p_k A_k` and `B̄ = sum p_k B_k`, has another product. LoRA-FAIR (arXiv 2411.14961) keeps `Ā` and corrects `B̄`;
//! here in the Frobenius norm, where the best correction has a closed form:
//!
//! `D = argmin |dW - (B̄ + D) Ā|² + λ |D|² = (dW - B̄ Ā) Āᵀ (Ā Āᵀ + λ I)⁻¹`
//!
//! (The paper takes a cosine in the place of the norm, and gradient steps.) No matrix of the size of a weight is ever made.

use crate::formats::peft::{Adapter, Factors};
use crate::llama::config::Projection;
use nalgebra::{DMatrix, DMatrixView};
use std::collections::BTreeMap;

/// How adapters become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The average of each factor.
    Average,
    /// The same with the second factor corrected.
    LoraFair,
}
crate::words::words! { Method: "method" { Average = "average", LoraFair = "lora-fair" } }

/// Why adapters cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// Fewer than two.
    #[error("{0} adapters: at least two are needed")]
    Few(usize),
    /// Shares that are none.
    #[error("weights {0:?}: expected one number above 0 for each of {1} adapters")]
    Weights(Vec<f64>, usize),
    /// A penalty that is none.
    #[error("lambda {0}: expected a number above 0")]
    Lambda(f64),
    /// The factors do not lie side by side.
    #[error("adapter {0} has rank {1}, and the first has {2}: only equal ranks can be averaged")]
    Rank(usize, usize, usize),
    /// The same.
    #[error("adapter {0} and the first adapt different layers: block {1}, {2} is in one alone")]
    Layers(usize, usize, &'static str),
    /// Values too large for the arithmetic.
    #[error("block {0}, {1}: the factors are too large to be solved for")]
    Singular(usize, &'static str),
}

/// An adapter in the place of several, and how far its product is from what they mean together.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// The one; rank, scale and settings are those of the first.
    pub adapter: Adapter,
    /// `|dW - B A| / |dW|` over all layers, Frobenius: of the average, and of the adapter.
    pub residuals: [f64; 2],
}

/// Factors in float64, `[rank, in]` and `[out, rank]`.
type Pair = (DMatrix<f64>, DMatrix<f64>);

/// Makes one adapter of several, in shares proportional to `weights`. `lambda` is the penalty on the correction.
pub fn aggregate(
    adapters: &[Adapter],
    weights: &[f64],
    method: Method,
    lambda: f64,
) -> Result<Aggregate, AggregateError> {
    let shares = check(adapters, weights, lambda)?;
    let first = &adapters[0];
    let scale = f64::from(first.config.scale());
    let mut factors = BTreeMap::new();
    let (mut all, mut missed) = (0.0, [0.0; 2]);
    for &layer in first.factors.keys() {
        let pairs: Vec<Pair> = adapters
            .iter()
            .map(|adapter| {
                let (a, b) = matrices(&adapter.factors[&layer], adapter.config.rank);
                // All in the first one's scale.
                (a, b * (f64::from(adapter.config.scale()) / scale))
            })
            .collect();
        let (a, average) = mean(&pairs, &shares);
        let corrected = match method {
            Method::Average => average.clone(),
            Method::LoraFair => {
                &average
                    + correction(&pairs, &shares, &a, &average, lambda)
                        .ok_or_else(|| AggregateError::Singular(layer.0, layer.1.module()))?
            }
        };
        let total = squared(&pairs, &shares);
        all += total;
        missed[0] += residual(&pairs, &shares, total, &a, &average);
        missed[1] += residual(&pairs, &shares, total, &a, &corrected);
        factors.insert(layer, Factors { a: row_major(&a), b: row_major(&corrected) });
    }
    let relative = |missed: f64| if all > 0.0 { (missed.max(0.0) / all).sqrt() } else { 0.0 };
    Ok(Aggregate { adapter: Adapter { config: first.config.clone(), factors }, residuals: missed.map(relative) })
}

/// The shares, of adapters that can become one.
fn check(adapters: &[Adapter], weights: &[f64], lambda: f64) -> Result<Vec<f64>, AggregateError> {
    if adapters.len() < 2 {
        return Err(AggregateError::Few(adapters.len()));
    }
    let usable = weights.iter().all(|w| w.is_finite() && *w > 0.0) && weights.len() == adapters.len();
    if !usable {
        return Err(AggregateError::Weights(weights.to_vec(), adapters.len()));
    }
    if !(lambda.is_finite() && lambda > 0.0) {
        return Err(AggregateError::Lambda(lambda));
    }
    let first = &adapters[0];
    for (i, other) in adapters.iter().enumerate().skip(1) {
        let (rank, expected) = (other.config.rank, first.config.rank);
        if rank != expected {
            return Err(AggregateError::Rank(i + 1, rank, expected));
        }
        if let Some((block, projection)) = in_one_alone(first, other) {
            return Err(AggregateError::Layers(i + 1, block, projection.module()));
        }
    }
    let sum: f64 = weights.iter().sum();
    Ok(weights.iter().map(|w| w / sum).collect())
}

fn in_one_alone(a: &Adapter, b: &Adapter) -> Option<(usize, Projection)> {
    let lacks = |a: &Adapter, b: &Adapter| a.factors.keys().find(|layer| !b.factors.contains_key(layer)).copied();
    lacks(a, b).or_else(|| lacks(b, a))
}

fn matrices(factors: &Factors, rank: usize) -> Pair {
    let matrix = |values: &[f32], rows: usize| {
        let columns = values.len() / rows.max(1);
        DMatrix::from_row_iterator(rows, columns, values.iter().map(|&v| f64::from(v)))
    };
    (matrix(&factors.a, rank), matrix(&factors.b, factors.b.len() / rank.max(1)))
}

fn row_major(matrix: &DMatrix<f64>) -> Vec<f32> {
    // nalgebra's own order is by columns.
    matrix.transpose().iter().map(|&v| v as f32).collect()
}

fn mean(pairs: &[Pair], shares: &[f64]) -> Pair {
    let sum = |of: fn(&Pair) -> &DMatrix<f64>| {
        let zero = DMatrix::zeros(of(&pairs[0]).nrows(), of(&pairs[0]).ncols());
        pairs.iter().zip(shares).fold(zero, |sum, (pair, &share)| sum + of(pair) * share)
    };
    (sum(|pair| &pair.0), sum(|pair| &pair.1))
}

/// `D`, by a solve of rank by rank; `dW Āᵀ` is `sum p_k B_k (A_k Āᵀ)`.
fn correction(pairs: &[Pair], shares: &[f64], a: &DMatrix<f64>, b: &DMatrix<f64>, lambda: f64) -> Option<DMatrix<f64>> {
    let gram = a * a.transpose();
    let mut missing = -(b * &gram);
    for ((a_k, b_k), &share) in pairs.iter().zip(shares) {
        missing += b_k * (a_k * a.transpose()) * share;
    }
    let regular = &gram + DMatrix::identity(gram.nrows(), gram.ncols()) * lambda;
    // The matrix is symmetric: X G = M is G Xᵀ = Mᵀ.
    Some(regular.cholesky()?.solve(&missing.transpose()).transpose())
}

/// `<B A, D C>` as matrices of the weight's size, by products of rank by rank: `tr((Bᵀ D) (C Aᵀ))`.
fn inner((a, b): (DMatrixView<f64>, DMatrixView<f64>), (c, d): (DMatrixView<f64>, DMatrixView<f64>)) -> f64 {
    (b.transpose() * d).component_mul(&(a * c.transpose())).sum()
}

fn view((a, b): &Pair) -> (DMatrixView<'_, f64>, DMatrixView<'_, f64>) {
    (a.as_view(), b.as_view())
}

/// `|dW|²`.
fn squared(pairs: &[Pair], shares: &[f64]) -> f64 {
    let with =
        |one: &Pair| -> f64 { pairs.iter().zip(shares).map(|(other, p)| p * inner(view(one), view(other))).sum() };
    pairs.iter().zip(shares).map(|(one, p)| p * with(one)).sum()
}

/// `|dW - B A|²`, with `total` as `|dW|²`. What is far below the rounding of `total` cannot be told from 0.
fn residual(pairs: &[Pair], shares: &[f64], total: f64, a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    let product = (a.as_view(), b.as_view());
    let shared: f64 = pairs.iter().zip(shares).map(|(pair, p)| p * inner(view(pair), product)).sum();
    (total - 2.0 * shared + inner(product, product)).max(0.0)
}
