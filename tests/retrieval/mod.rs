mod comparison;
mod embeddings;
mod pilot;
mod questions;
mod scores;
mod statistics;
mod views;
mod words;

use crate::support::normal;
use kiungo::retrieval::Embeddings;
use rand::rngs::StdRng;

/// Random unit rows.
fn random_embeddings(rng: &mut StdRng, rows: usize, width: usize) -> Embeddings {
    Embeddings::new(normal(rng, rows * width).chunks(width).flat_map(unit).collect(), width).unwrap()
}

/// A row brought to unit length.
fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    row.iter().map(|v| v / norm).collect()
}

/// A cosine of unit rows in float64.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
