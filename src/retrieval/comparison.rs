//! Two ways of doing something, over the same questions and several seeds: how far apart they are, and how sure that is.
//!
//! Seeds and paragraphs are crossed: every seed answers every paragraph's questions. So both are resampled, each on its own.

use super::statistics::{Bootstrap, Estimate, Result, StatisticsError};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;

/// A difference of means with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// First less second, with an interval from resampled seeds and clusters.
    pub estimate: Estimate,
    /// Two-sided, of a sign-flip permutation over clusters, with the seeds' mean: no p is 0.
    pub p: f64,
    /// The smallest true difference that such data would have found four times in five, at the 5 % level:
    /// `(1.960 + 0.842)` standard errors.
    pub detectable: f64,
    /// Seeds, of the side that has more.
    pub seeds: usize,
    /// Clusters of questions.
    pub clusters: usize,
}

/// Sign flips drawn. The smallest p that they can show is 1 in this number and one more.
const FLIPS: usize = 9999;

/// `1.960` (5 %, two-sided) and `0.842` (a power of 0.8) standard normal deviates.
const DETECTABLE: f64 = 1.959_964 + 0.841_621;

impl Difference {
    /// Of values `[seed][question]`. A side with one seed stands against each of the other's. `clusters[q]` labels the
    /// cluster of question `q`.
    pub fn between(
        first: &[Vec<f64>],
        second: &[Vec<f64>],
        clusters: &[usize],
        bootstrap: &Bootstrap,
    ) -> Result<Difference> {
        let seeds = first.len().max(second.len());
        let side = |values: &[Vec<f64>], what| match values.len() {
            n if n == seeds || n == 1 => Ok(()),
            found => Err(StatisticsError::Length { what, expected: seeds, found }),
        };
        side(first, "seeds of the first")?;
        side(second, "seeds of the second")?;
        let of = |values: &[Vec<f64>], seed: usize, q: usize| values[if values.len() == 1 { 0 } else { seed }][q];
        if let Some(row) = first.iter().chain(second).find(|row| row.len() != clusters.len()) {
            let (expected, found) = (clusters.len(), row.len());
            return Err(StatisticsError::Length { what: "values of a seed", expected, found });
        }
        let sums = ClusterSums::new(seeds, clusters, |seed, q| of(first, seed, q) - of(second, seed, q))?;
        let (estimate, standard_error) = sums.resample(bootstrap);
        Ok(Difference {
            estimate,
            p: sums.flip(bootstrap.seed),
            detectable: DETECTABLE * standard_error,
            seeds,
            clusters: sums.counts.len(),
        })
    }

    /// The mean of values `[seed][question]`, with an interval from resampled seeds and clusters.
    pub fn mean(values: &[Vec<f64>], clusters: &[usize], bootstrap: &Bootstrap) -> Result<Estimate> {
        Ok(Difference::between(values, &[vec![0.0; clusters.len()]], clusters, bootstrap)?.estimate)
    }
}

/// Sums of values by seed and cluster.
struct ClusterSums {
    /// `[seed][cluster]`.
    sums: Vec<Vec<f64>>,
    /// Values of each cluster.
    counts: Vec<f64>,
}

impl ClusterSums {
    fn new(seeds: usize, clusters: &[usize], value: impl Fn(usize, usize) -> f64) -> Result<ClusterSums> {
        let mut places = HashMap::new();
        let mut place_of = |label: &usize| {
            let next = places.len();
            *places.entry(*label).or_insert(next)
        };
        let place: Vec<usize> = clusters.iter().map(&mut place_of).collect();
        let found = places.len();
        if found < 2 {
            return Err(StatisticsError::TooFew { what: "clusters to resample", needed: 2, found });
        }
        let mut all = ClusterSums { sums: vec![vec![0.0; found]; seeds], counts: vec![0.0; found] };
        place.iter().for_each(|&c| all.counts[c] += 1.0);
        for (seed, sums) in all.sums.iter_mut().enumerate() {
            for (index, &c) in place.iter().enumerate() {
                let value = value(seed, index);
                if !value.is_finite() {
                    return Err(StatisticsError::NotFinite { index, value });
                }
                sums[c] += value;
            }
        }
        Ok(all)
    }

    fn resample(&self, bootstrap: &Bootstrap) -> (Estimate, f64) {
        let (seeds, clusters) = (self.sums.len(), self.counts.len());
        // Places below `seeds` draw a seed, the others a cluster.
        let statistic = |drawn: &[usize]| {
            let (drawn_seeds, drawn_clusters) = drawn.split_at(seeds);
            let count: f64 = drawn_clusters.iter().map(|&c| self.counts[c]).sum();
            let of_seed = |&s: &usize| drawn_clusters.iter().map(|&c| self.sums[s][c]).sum::<f64>();
            drawn_seeds.iter().map(of_seed).sum::<f64>() / (count * seeds as f64)
        };
        bootstrap.levels(&[seeds, clusters], statistic)
    }

    fn flip(&self, seed: u64) -> f64 {
        let means: Vec<f64> = (0..self.counts.len())
            .map(|c| self.sums.iter().map(|sums| sums[c]).sum::<f64>() / self.sums.len() as f64)
            .collect();
        let observed = means.iter().sum::<f64>().abs();
        // Sums that differ by rounding alone are equal.
        let reached = observed - 1e-9 * means.iter().map(|m| m.abs()).sum::<f64>();
        let at_least = (0..FLIPS).into_par_iter().filter(|&flip| {
            let mut rng = StdRng::seed_from_u64(seed ^ (flip as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let flipped: f64 = means.iter().map(|&m| if rng.random::<bool>() { m } else { -m }).sum();
            flipped.abs() >= reached
        });
        (1 + at_least.count()) as f64 / (1 + FLIPS) as f64
    }
}

/// Holm's step-down adjustment (1979): below a level, these p-values hold together at that level.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        highest = highest.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = highest;
    }
    adjusted
}
