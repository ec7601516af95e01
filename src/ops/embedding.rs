//! Token embedding: row `ids[t]` of a table.
//!
//! # Cost and error
//!
//! - Cost: forward moves `2 * b * tokens * hidden` bytes; backward reads `b * tokens * hidden` and adds as many
//!   f32. No FLOPs but those additions.
//! - Error: forward is a copy, rounded where types differ; backward 1e-6. A GPU gives the CPU's bytes.

use super::check::{Check, F32, FLOAT, U32};
use super::float::with_float;
use crate::device::{Device, Gpu, Tensor};

/// `y[t, :] = table[ids[t], :]`.
///
/// - `table`: `[vocab, hidden]`, f32 or bf16
/// - `ids`: `[tokens]`, u32, below `vocab` (an error on the CPU, a row of NaN on CUDA)
/// - `y`: `[tokens, hidden]`, f32 or bf16
pub fn forward(table: &Tensor, ids: &Tensor, y: &mut Tensor) -> super::Result {
    let check = Check::new("embedding", table);
    let (vocab, hidden) = check.matrix("table", table)?;
    check.dtype("table", table, FLOAT)?;
    check.tensor("ids", ids, &[ids.len()], U32)?;
    check.tensor("y", y, &[ids.len(), hidden], FLOAT)?;
    match check.device() {
        Device::Cpu => {
            check_ids(&check, ids.as_slice()?, vocab)?;
            with_float!(table.dtype(), W => with_float!(y.dtype(), T => cpu::forward::<W, T>(
                table.as_slice()?, ids.as_slice()?, hidden, y.as_mut_slice()?)));
        }
        Device::Cuda(gpu) if !y.is_empty() => gpu.launch(&cuda::forward(table, ids, y)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Gradient of [`forward`]: `dtable[ids[t], :] += dy[t, :]`, in the order of the tokens.
///
/// - `dy`: `[tokens, hidden]`, f32 or bf16
/// - `ids`: `[tokens]`, u32, below `vocab` (an error on the CPU, left out on CUDA)
/// - `dtable`: `[vocab, hidden]`, f32, added to
pub fn backward(dy: &Tensor, ids: &Tensor, dtable: &mut Tensor) -> super::Result {
    let check = Check::new("embedding backward", dy);
    let (vocab, hidden) = check.matrix("dtable", dtable)?;
    check.tensor("dtable", dtable, &[vocab, hidden], F32)?;
    check.tensor("ids", ids, &[ids.len()], U32)?;
    check.tensor("dy", dy, &[ids.len(), hidden], FLOAT)?;
    match check.device() {
        Device::Cpu => {
            check_ids(&check, ids.as_slice()?, vocab)?;
            with_float!(dy.dtype(), T => cpu::backward::<T>(
                dy.as_slice()?, ids.as_slice()?, hidden, dtable.as_mut_slice()?));
        }
        Device::Cuda(gpu) if !dy.is_empty() => gpu.launch(&cuda::backward(dy, ids, dtable)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// A row for each token, `[tokens, vocab]`, whose only 1 is at its id: [`backward`] is the product of its transpose with `dy`.
///
/// On CUDA alone; bf16, `vocab` a multiple of eight; an id beyond it leaves zeros.
pub(super) fn one_hot(gpu: &Gpu, ids: &Tensor, rows: &mut Tensor) -> super::Result {
    Ok(gpu.launch(&cuda::one_hot(ids, rows)?)?)
}

pub(super) fn check_ids(check: &Check, ids: &[u32], vocab: usize) -> super::Result {
    let wrong = ids.iter().position(|&id| id as usize >= vocab);
    check.value(wrong.is_none(), || {
        let t = wrong.unwrap_or_default();
        format!("token {t} has id {}, and the table has {vocab} rows: is the tokenizer the model's own?", ids[t])
    })
}

/// The reference.
pub mod cpu {
    use crate::ops::Float;
    use rayon::prelude::*;

    /// See [`super::forward`].
    pub fn forward<W: Float, T: Float>(table: &[W], ids: &[u32], hidden: usize, y: &mut [T]) {
        y.par_chunks_mut(hidden).zip(ids).for_each(|(y, &id)| {
            let row = &table[id as usize * hidden..][..hidden];
            for (y, w) in y.iter_mut().zip(row) {
                *y = T::from_f32(w.to_f32());
            }
        });
    }

    /// See [`super::backward`].
    pub fn backward<T: Float>(dy: &[T], ids: &[u32], hidden: usize, dtable: &mut [f32]) {
        for (dy, &id) in dy.chunks(hidden).zip(ids) {
            let row = &mut dtable[id as usize * hidden..][..hidden];
            for (d, dy) in row.iter_mut().zip(dy) {
                *d += dy.to_f32();
            }
        }
    }
}

mod cuda {
    use crate::device::{DType, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::threads;
    use crate::ops::params::EmbeddingParams;

    /// Most threads a token.
    const MOST: usize = 512;

    pub fn forward(table: &Tensor, ids: &Tensor, y: &Tensor) -> Result<Launch> {
        let kernel = match (table.dtype(), y.dtype()) {
            (DType::Bf16, DType::Bf16) => "embedding_forward_bf16_bf16",
            (DType::Bf16, _) => "embedding_forward_bf16_f32",
            (_, DType::Bf16) => "embedding_forward_f32_bf16",
            _ => "embedding_forward_f32_f32",
        };
        let threads = threads(table.columns().div_ceil(8), MOST);
        Ok(Launch::new("embedding", kernel, [ids.len() as u32, 1, 1], threads, params(table, ids, y)?))
    }

    pub fn backward(dy: &Tensor, ids: &Tensor, dtable: &Tensor) -> Result<Launch> {
        let kernel = kernel_for!(dy.dtype(), "embedding_backward");
        Ok(Launch::new("embedding", kernel, [ids.len() as u32, 1, 1], MOST as u32, params(dtable, ids, dy)?))
    }

    pub fn one_hot(ids: &Tensor, y: &Tensor) -> Result<Launch> {
        let params = EmbeddingParams {
            ids: ids.address()?,
            y: y.address()?,
            tokens: ids.len() as u32,
            vocab: y.columns() as u32,
            ..Default::default()
        };
        Ok(Launch::new("embedding", "embedding_one_hot", [ids.len() as u32, 1, 1], MOST as u32, params))
    }

    fn params(table: &Tensor, ids: &Tensor, y: &Tensor) -> Result<EmbeddingParams> {
        Ok(EmbeddingParams {
            table: table.address()?,
            ids: ids.address()?,
            y: y.address()?,
            tokens: ids.len() as u32,
            vocab: table.rows() as u32,
            hidden: table.columns() as u32,
            unused: 0,
        })
    }
}
