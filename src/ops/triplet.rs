//! Triplet losses over cosine distances `d = 1 - cos` (Schroff et al. 2015, arXiv 1503.03832).
//!
//! [`hardest`] mines each pair's closest negative from the batch, as Targeted Lexical Injection trains
//! (arXiv 2506.15415); [`given`] takes negatives that the data name.
//!
//! # Cost and error
//!
//! - Cost: [`hardest`] reads the similarities and writes the gradients, `8 * n^2` bytes, with a comparison an entry
//!   and direction; [`given`] moves `24 * n * hidden` bytes and does 8 FLOPs an element.
//! - Error: loss and gradients 1e-6; a GPU within 1e-6 of the CPU.

use super::check::{Check, F32};
pub use super::in_batch::Direction;
use super::in_batch::{self, check};
use super::params::TripletGivenParams;
use crate::device::{Device, Launch, Tensor};

/// Loss against the hardest negative of the batch, and its gradient with respect to the similarities.
///
/// Forward: `mean_i max(0, margin + max_j s_ij - s_ii)`, j over the negatives of row i. Both: the mean of that and of
/// the same over columns. A pair without negatives (so also a batch of one) adds zero. Of equally hard negatives
/// the first takes the gradient; at the hinge itself the gradient is zero. A GPU needs `16 * n` bytes of the
/// [workspace](crate::device::Gpu::reserve) a direction.
///
/// - `similarity`: `[n, n]`, f32, n > 0: anchors in rows, positives in columns, pairs on the diagonal
/// - `excluded`: `[n, n]`, u8, where one is given: not 0 takes an entry out of the negatives of its row and of its
///   column; the diagonal is ignored
/// - `margin`: 0 or more, in units of the cosine
/// - `loss`: `[1]`, f32, out
/// - `dsimilarity`: `[n, n]`, f32, out: `d loss / d similarity`
pub fn hardest(
    similarity: &Tensor,
    excluded: Option<&Tensor>,
    direction: Direction,
    margin: f32,
    loss: &mut Tensor,
    dsimilarity: &mut Tensor,
) -> super::Result {
    let tensors = Check::new("triplet", similarity);
    let n = check(&tensors, similarity, excluded, loss, dsimilarity)?;
    check_margin(&tensors, margin)?;
    match tensors.device() {
        Device::Cpu => {
            let excluded = excluded.map(|e| e.as_slice()).transpose()?;
            let (similarity, dsimilarity) = (similarity.as_slice()?, dsimilarity.as_mut_slice()?);
            let value = cpu::hardest(n, similarity, excluded, direction, margin, dsimilarity);
            Ok(loss.write(&[value])?)
        }
        Device::Cuda(gpu) => {
            let mut params = in_batch::params(gpu, similarity, excluded, direction, loss, dsimilarity)?;
            params.margin = margin;
            gpu.launch(&Launch::new("triplet", "triplet_hardest", [params.n, params.sides, 1], 32, params))?;
            Ok(gpu.launch(&Launch::new("triplet", "triplet_gradient", [params.n, 1, 1], 256, params))?)
        }
    }
}

/// Loss of given triplets, `mean_i max(0, d(a_i, p_i) - d(a_i, n_i) + margin)`, and its gradients. A GPU needs `8 * n`
/// bytes of the [workspace](crate::device::Gpu::reserve).
///
/// - `anchor`, `positive`, `negative`: `[n, hidden]`, f32, n > 0, rows of length 1 as
///   [`cosine::normalize`](super::cosine::normalize) makes them, so that a dot product is a cosine
/// - `margin`: 0 or more, in units of the cosine
/// - `loss`: `[1]`, f32, out
/// - `danchor`, `dpositive`, `dnegative`: `[n, hidden]`, f32, out: gradients with respect to the unit rows
#[expect(clippy::too_many_arguments)]
pub fn given(
    anchor: &Tensor,
    positive: &Tensor,
    negative: &Tensor,
    margin: f32,
    loss: &mut Tensor,
    danchor: &mut Tensor,
    dpositive: &mut Tensor,
    dnegative: &mut Tensor,
) -> super::Result {
    let check = Check::new("triplet of given negatives", anchor);
    let (n, hidden) = check.matrix("anchor", anchor)?;
    check.dtype("anchor", anchor, F32)?;
    check.like("positive", positive, anchor)?;
    check.like("negative", negative, anchor)?;
    check.value(n > 0, || "a batch needs at least one triplet".into())?;
    check_margin(&check, margin)?;
    check.tensor("loss", loss, &[1], F32)?;
    check.like("danchor", danchor, anchor)?;
    check.like("dpositive", dpositive, anchor)?;
    check.like("dnegative", dnegative, anchor)?;
    match check.device() {
        Device::Cpu => {
            let rows = [anchor.as_slice()?, positive.as_slice()?, negative.as_slice()?];
            let gradients = [danchor.as_mut_slice()?, dpositive.as_mut_slice()?, dnegative.as_mut_slice()?];
            Ok(loss.write(&[cpu::given(hidden, rows, margin, gradients)])?)
        }
        Device::Cuda(gpu) => {
            let params = TripletGivenParams {
                anchor: anchor.address()?,
                positive: positive.address()?,
                negative: negative.address()?,
                loss: loss.address()?,
                danchor: danchor.address()?,
                dpositive: dpositive.address()?,
                dnegative: dnegative.address()?,
                workspace: gpu.workspace(n * size_of::<f64>())?,
                n: n as u32,
                hidden: hidden as u32,
                margin,
                unused: 0,
            };
            gpu.launch(&Launch::new("triplet", "triplet_given", [params.n, 1, 1], 256, params))?;
            Ok(gpu.launch(&Launch::new("triplet", "triplet_given_loss", [1, 1, 1], 256, params))?)
        }
    }
}

pub(super) fn check_margin(check: &Check, margin: f32) -> super::Result {
    let valid = margin >= 0.0 && margin.is_finite();
    check.value(valid, || format!("margin is {margin}, expected 0 or more"))
}

/// The reference.
pub mod cpu {
    use super::Direction;
    use crate::ops::cosine::cpu::dot;
    use crate::ops::in_batch::Negatives;
    use rayon::prelude::*;

    /// Returns the loss. See [`super::hardest`].
    pub fn hardest(
        n: usize,
        similarity: &[f32],
        excluded: Option<&[u8]>,
        direction: Direction,
        margin: f32,
        dsimilarity: &mut [f32],
    ) -> f32 {
        let negatives = Negatives { n, excluded };
        let sides = direction.sides();
        let weight = 1.0 / (n * sides.len()) as f32;
        let mut sum = 0.0f64;
        dsimilarity.fill(0.0);
        for &side in sides {
            let hardest: Vec<Option<usize>> =
                (0..n).into_par_iter().map(|i| largest(similarity, negatives.of(side, i))).collect();
            for (i, negative) in hardest.into_iter().enumerate() {
                let (Some(negative), pair) = (negative, i * n + i) else { continue };
                let hinge = margin as f64 + similarity[negative] as f64 - similarity[pair] as f64;
                if is_open(hinge) {
                    sum += hinge;
                    dsimilarity[negative] += weight;
                    dsimilarity[pair] -= weight;
                }
            }
        }
        (sum / (n * sides.len()) as f64) as f32
    }

    /// Position of the first largest value; a NaN counts as largest, so that it reaches the loss.
    fn largest(values: &[f32], positions: impl Iterator<Item = usize>) -> Option<usize> {
        positions.reduce(|best, at| {
            let (b, v) = (values[best], values[at]);
            if v > b || (v.is_nan() && !b.is_nan()) { at } else { best }
        })
    }

    /// Above zero; a NaN passes, so that it reaches the loss.
    fn is_open(hinge: f64) -> bool {
        hinge > 0.0 || hinge.is_nan()
    }

    /// Returns the loss; rows and gradients are those of anchors, positives and negatives. See [`super::given`].
    pub fn given(hidden: usize, rows: [&[f32]; 3], margin: f32, gradients: [&mut [f32]; 3]) -> f32 {
        let n = rows[0].len() / hidden;
        let weight = 1.0 / n as f32;
        let [a, p, m] = rows.map(|rows| rows.par_chunks(hidden));
        let [da, dp, dm] = gradients.map(|rows| rows.par_chunks_mut(hidden));
        let hinges = a.zip(p).zip(m).zip(da).zip(dp).zip(dm).map(|(((((a, p), m), da), dp), dm)| {
            let hinge = margin as f64 + dot(a, m) - dot(a, p);
            let (hinge, weight) = if is_open(hinge) { (hinge, weight) } else { (0.0, 0.0) };
            for k in 0..hidden {
                da[k] = weight * (m[k] - p[k]);
                dp[k] = -weight * a[k];
                dm[k] = weight * a[k];
            }
            hinge
        });
        // Collected before it is summed: the order of a parallel sum depends on the number of threads.
        let hinges: Vec<f64> = hinges.collect();
        (hinges.iter().sum::<f64>() / n as f64) as f32
    }
}
