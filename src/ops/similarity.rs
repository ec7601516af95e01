//! Scores of all queries against all candidates, and the best of them.
//!
//! # Cost and error
//!
//! - Cost: [`matrix`] is a product of `q`, `c` and `hidden`; [`top_k`] reads `4 * q * c` bytes `k` times at most.
//! - Error: 1e-6 for the scores; the choice is exact.

use super::check::{Check, F32, U32};
use super::gemm::{Layout, gemm};
use super::params::TopKParams;
use crate::device::{Device, Launch, Tensor};

/// `similarity[i, j] = queries[i, :] . candidates[j, :]`, the cosine if the rows have length 1.
///
/// - `queries`: `[q, hidden]`, `candidates`: `[c, hidden]`, f32 or bf16 each
/// - `similarity`: `[q, c]`, f32, out
pub fn matrix(queries: &Tensor, candidates: &Tensor, similarity: &mut Tensor) -> super::Result {
    Check::new("similarity", queries).dtype("similarity", similarity, F32)?;
    gemm(Layout::Nt, queries, candidates, similarity, false)
}

/// The `k` best candidates of each query, best first; of equals the one with the lower index. A NaN ranks as minus
/// infinity.
///
/// - `similarity`: `[q, c]`, f32
/// - `k`: 1 to c
/// - `scores`: `[q, k]`, f32, out
/// - `indices`: `[q, k]`, u32, out: columns of `similarity`
pub fn top_k(similarity: &Tensor, k: usize, scores: &mut Tensor, indices: &mut Tensor) -> super::Result {
    let check = Check::new("top_k", similarity);
    let (queries, candidates) = check.matrix("similarity", similarity)?;
    check.dtype("similarity", similarity, F32)?;
    check.value((1..=candidates).contains(&k), || format!("k is {k}, expected 1 to {candidates}, the candidates"))?;
    check.tensor("scores", scores, &[queries, k], F32)?;
    check.tensor("indices", indices, &[queries, k], U32)?;
    match check.device() {
        Device::Cpu => {
            let (scores, indices) = (scores.as_mut_slice()?, indices.as_mut_slice()?);
            cpu::top_k(candidates, similarity.as_slice()?, k, scores, indices);
        }
        Device::Cuda(gpu) if queries > 0 => {
            let params = TopKParams {
                similarity: similarity.address()?,
                scores: scores.address()?,
                indices: indices.address()?,
                candidates: candidates as u32,
                k: k as u32,
            };
            gpu.launch(&Launch::new("similarity", "similarity_top_k", [queries as u32, 1, 1], 256, params))?
        }
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use rayon::prelude::*;
    use std::cmp::Ordering;

    /// See [`super::top_k`]; rows of `candidates` columns.
    pub fn top_k(candidates: usize, similarity: &[f32], k: usize, scores: &mut [f32], indices: &mut [u32]) {
        let rows = similarity.par_chunks(candidates).zip(scores.par_chunks_mut(k)).zip(indices.par_chunks_mut(k));
        rows.for_each_init(Vec::new, |order, ((row, scores), indices)| {
            let better = |a: &u32, b: &u32| compare(row[*b as usize], row[*a as usize]).then(a.cmp(b));
            order.clear();
            order.extend(0..candidates as u32);
            if k < candidates {
                order.select_nth_unstable_by(k, better);
            }
            order[..k].sort_unstable_by(better);
            indices.copy_from_slice(&order[..k]);
            for (score, index) in scores.iter_mut().zip(indices) {
                *score = row[*index as usize];
            }
        });
    }

    fn compare(a: f32, b: f32) -> Ordering {
        let rank = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        rank(a).partial_cmp(&rank(b)).unwrap_or(Ordering::Equal)
    }
}
