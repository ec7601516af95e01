//! Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv 2305.13245) over packed sequences.
//!
//! Each token attends to itself and to the tokens before it in its own sequence:
//! `o = softmax(q k^T / sqrt(dim)) v`. Query head h reads key and value head `h / (query / key_value)`.
//! Only a tile of the scores exists at any time (Dao et al. 2022, arXiv 2205.14135).
//!
//! # Cost and error
//!
//! - Cost: a sequence of n tokens takes `2 * n^2 * query * dim` FLOPs forward and 2.5 times that backward. A GPU
//!   that is no Hopper adds nothing up in memory, and computes two products of five again where a sequence is longer than
//!   32 tokens. Bytes: q, k, v and o once, and again with their gradients.
//! - On a GPU bf16 heads of 64 and 128 features run on tensor cores; f32 and others on ordinary cores, one warp a token
//!   and head, which suits short sequences.
//! - Error: 2e-6 in f32. On tensor cores weights and their gradients are rounded to bf16 between two products: at most
//!   twice the error of the CPU's bf16, which rounds results alone. Where a sequence lies in the batch decides the order
//!   of its sums there: the same batch gives the same bytes.

pub mod cpu;
mod cuda;
mod hopper;

use super::Result;
use super::check::{Allowed, Check, F32, FLOAT};
use super::float::with_float;
use super::params::AttentionParams;
use super::sequences::Sequences;
use crate::device::{DType, Device, Gpu, Tensor};
use cuda::Kernels;

/// Heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, a multiple of `key_value`.
    pub query: usize,
    /// Key heads, and as many value heads.
    pub key_value: usize,
    /// Features a head.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.query / self.key_value
    }

    fn check(&self, check: &Check) -> Result {
        let ok = self.dim > 0 && self.key_value > 0 && self.query > 0 && self.query.is_multiple_of(self.key_value);
        check.value(ok, || {
            let Heads { query, key_value, dim } = self;
            format!("{query} query heads of {dim} features cannot share {key_value} key and value heads evenly")
        })
    }
}

/// Bytes of a GPU's [workspace](Gpu::reserve) that [`backward`] needs at most, and [`forward`] with it:
/// `4 * query * dim` a token, and little more, for bf16 heads of 64 and 128 features on Hopper; else none.
pub fn workspace(gpu: &Gpu, dtype: DType, tokens: usize, heads: Heads) -> usize {
    hopper::workspace(gpu, dtype, tokens, heads)
}

/// `o = softmax(q k^T / sqrt(dim)) v` within each sequence, causal.
///
/// - `q`, `o`: `[tokens, query * dim]`, `k`, `v`: `[tokens, key_value * dim]`, f32 or bf16, the same type
/// - `lse`: `[tokens, query]`, f32, out: logarithm of each row's sum of exponentials, which [`backward`] reads
pub fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    sequences: &Sequences,
    heads: Heads,
    o: &mut Tensor,
    lse: &mut Tensor,
) -> Result {
    let check = Check::new("attention", q);
    heads.check(&check)?;
    let tokens = q.rows();
    let (queries, keys) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
    let same = Allowed::Only(q.dtype());
    check.tensor("q", q, &queries, FLOAT)?;
    check.tensor("k", k, &keys, same)?;
    check.tensor("v", v, &keys, same)?;
    check.tensor("o", o, &queries, same)?;
    check.tensor("lse", lse, &[tokens, heads.query], F32)?;
    sequences.check(&check, tokens)?;
    match check.device() {
        Device::Cpu => with_float!(q.dtype(), T => cpu::forward::<T>(
            q.as_slice()?, k.as_slice()?, v.as_slice()?, sequences, heads, o.as_mut_slice()?, lse.as_mut_slice()?)),
        Device::Cuda(gpu) => {
            let params = cuda::params([q, k, v, o, lse], sequences, heads)?;
            let kernels = Kernels::choose(&check, gpu, q.dtype(), sequences, heads)?;
            gpu.launch(&kernels.forward(gpu, params)?)?;
        }
    }
    Ok(())
}

/// Gradients of [`forward`]. With `p` the attention weights and `delta = sum over features of d_o * o`:
/// `dv = p^T d_o`, `ds = p * (d_o v^T - delta) / sqrt(dim)`, `dq = ds k`, `dk = ds^T q`.
///
/// - `d_o`, `q`, `o`, `dq`: `[tokens, query * dim]`, `k`, `v`, `dk`, `dv`: `[tokens, key_value * dim]`, f32 or bf16,
///   the same type
/// - `lse`: `[tokens, query]`, f32, as [`forward`] left it
/// - `delta`: `[tokens, query]`, f32, scratch
#[expect(clippy::too_many_arguments, reason = "the equations have that many names")]
pub fn backward(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    o: &Tensor,
    lse: &Tensor,
    sequences: &Sequences,
    heads: Heads,
    dq: &mut Tensor,
    dk: &mut Tensor,
    dv: &mut Tensor,
    delta: &mut Tensor,
) -> Result {
    let check = Check::new("attention backward", q);
    heads.check(&check)?;
    let tokens = q.rows();
    let (queries, keys) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
    let same = Allowed::Only(q.dtype());
    check.tensor("q", q, &queries, FLOAT)?;
    for (name, t, shape) in [("k", k, keys), ("v", v, keys), ("d_o", d_o, queries), ("o", o, queries)] {
        check.tensor(name, t, &shape, same)?;
    }
    for (name, t, shape) in [("dq", &*dq, queries), ("dk", &*dk, keys), ("dv", &*dv, keys)] {
        check.tensor(name, t, &shape, same)?;
    }
    check.tensor("lse", lse, &[tokens, heads.query], F32)?;
    check.tensor("delta", delta, &[tokens, heads.query], F32)?;
    sequences.check(&check, tokens)?;
    match check.device() {
        Device::Cpu => with_float!(q.dtype(), T => {
            let (lse, delta) = (lse.as_slice()?, delta.as_mut_slice()?);
            cpu::delta::<T>(d_o.as_slice()?, o.as_slice()?, heads.dim, delta);
            cpu::backward::<T>(d_o.as_slice()?, q.as_slice()?, k.as_slice()?, v.as_slice()?, lse, delta,
                sequences, heads, dq.as_mut_slice()?, dk.as_mut_slice()?, dv.as_mut_slice()?);
        }),
        Device::Cuda(gpu) => {
            let params = AttentionParams {
                d_o: d_o.address()?,
                dq: dq.address()?,
                dk: dk.address()?,
                dv: dv.address()?,
                delta: delta.address()?,
                ..cuda::params([q, k, v, o, lse], sequences, heads)?
            };
            let kernels = Kernels::choose(&check, gpu, q.dtype(), sequences, heads)?;
            for launch in kernels.backward(gpu, params)? {
                gpu.launch(&launch)?;
            }
        }
    }
    Ok(())
}
