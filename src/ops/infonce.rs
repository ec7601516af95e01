//! InfoNCE, the contrastive cross-entropy over a batch's similarities (van den Oord et al. 2018, arXiv 1807.03748).
//!
//! Each row is a classification of the anchor among the batch's positives, with logits `similarity / temperature`
//! and the pair's own entry as the right answer; columns likewise ([`Direction`]).
//!
//! # Cost and error
//!
//! - Cost: reads the similarities twice and writes the gradients: `12 * n^2` bytes; an exponential an entry and
//!   direction, twice.
//! - Error: loss and gradient 1e-6; exponentials and sums are f64. A GPU within 1e-6 of the CPU.

use super::check::Check;
pub use super::in_batch::Direction;
use super::in_batch::{self, check};
use crate::device::{Device, Launch, Tensor};

/// Bytes of the [workspace](crate::device::Gpu::reserve) that `n` pairs need.
pub fn workspace_bytes(n: usize, direction: Direction) -> usize {
    in_batch::workspace_bytes(n, direction)
}

/// Loss and its gradient with respect to the similarities.
///
/// Forward: `mean_i (log sum_j exp(s_ij / t) - s_ii / t)`, j over the pair itself and its negatives. Both: the mean
/// of that and of the same over columns. A pair without negatives adds zero. A GPU needs `16 * n` bytes of the
/// [workspace](crate::device::Gpu::reserve) a direction.
///
/// - `similarity`: `[n, n]`, f32, n > 0: anchors in rows, positives in columns, pairs on the diagonal
/// - `excluded`: `[n, n]`, u8, where one is given: not 0 takes an entry out of the negatives of its row and of its
///   column; the diagonal is ignored
/// - `temperature`: above 0
/// - `loss`: `[1]`, f32, out
/// - `dsimilarity`: `[n, n]`, f32, out: `d loss / d similarity`
pub fn forward(
    similarity: &Tensor,
    excluded: Option<&Tensor>,
    temperature: f32,
    direction: Direction,
    loss: &mut Tensor,
    dsimilarity: &mut Tensor,
) -> super::Result {
    let tensors = Check::new("infonce", similarity);
    let n = check(&tensors, similarity, excluded, loss, dsimilarity)?;
    check_temperature(&tensors, temperature)?;
    match tensors.device() {
        Device::Cpu => {
            let excluded = excluded.map(|e| e.as_slice()).transpose()?;
            let (similarity, dsimilarity) = (similarity.as_slice()?, dsimilarity.as_mut_slice()?);
            let value = cpu::forward(n, similarity, excluded, temperature, direction, dsimilarity);
            Ok(loss.write(&[value])?)
        }
        Device::Cuda(gpu) => {
            let mut params = in_batch::params(gpu, similarity, excluded, direction, loss, dsimilarity)?;
            params.temperature = temperature;
            gpu.launch(&Launch::new("infonce", "infonce_normalisers", [params.n, params.sides, 1], 256, params))?;
            Ok(gpu.launch(&Launch::new("infonce", "infonce_gradient", [params.n, 1, 1], 256, params))?)
        }
    }
}

pub(super) fn check_temperature(check: &Check, temperature: f32) -> super::Result {
    let positive = temperature > 0.0 && temperature.is_finite();
    check.value(positive, || format!("temperature is {temperature}, expected a number above 0"))
}

/// The reference. Exponentials and sums are float64: a small loss is the difference of two large logarithms.
pub mod cpu {
    use super::Direction;
    use crate::ops::in_batch::{Negatives, Side};
    use rayon::prelude::*;

    /// Returns the loss. See [`super::forward`].
    pub fn forward(
        n: usize,
        similarity: &[f32],
        excluded: Option<&[u8]>,
        temperature: f32,
        direction: Direction,
        dsimilarity: &mut [f32],
    ) -> f32 {
        let negatives = Negatives { n, excluded };
        let sides = direction.sides();
        let logit = |at: usize| similarity[at] as f64 / temperature as f64;
        let pair = |i: usize| i * n + i;
        let normalisers = |&side: &Side| -> Vec<f64> {
            let logits = |i| std::iter::once(pair(i)).chain(negatives.of(side, i)).map(logit);
            (0..n).into_par_iter().map(|i| log_sum_exp(logits(i))).collect()
        };
        let normalisers: Vec<Vec<f64>> = sides.iter().map(normalisers).collect();
        let terms = normalisers.iter().flat_map(|side| side.iter().enumerate().map(|(i, z)| z - logit(pair(i))));
        let loss = terms.sum::<f64>() / (n * sides.len()) as f64;

        let weight = 1.0 / ((n * sides.len()) as f64 * temperature as f64);
        dsimilarity.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (j, d) in row.iter_mut().enumerate() {
                let probability = |(side, z): (&Side, &Vec<f64>)| (logit(i * n + j) - z[side.line(i, j)]).exp();
                let probabilities = || sides.iter().zip(&normalisers).map(probability).sum::<f64>();
                *d = match (i == j, negatives.contains(i, j)) {
                    (true, _) => (weight * (probabilities() - sides.len() as f64)) as f32,
                    (false, true) => (weight * probabilities()) as f32,
                    (false, false) => 0.0,
                };
            }
        });
        loss as f32
    }

    fn log_sum_exp(logits: impl Iterator<Item = f64> + Clone) -> f64 {
        let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
        max + logits.map(|l| (l - max).exp()).sum::<f64>().ln()
    }
}
