//! The language-model loss: cross-entropy of the next token, with the output matrix inside, so that logits of all
//! tokens at once are never held: tokens go through in chunks.
//!
//! # Cost and error
//!
//! - Cost: `2 * tokens * h * vocab` FLOPs for the loss, as many for each gradient; a chunk reads the head once a
//!   product, `b * vocab * h` bytes, and moves its logits three to five times. On a GPU it needs `4 * min(tokens,
//!   512) * vocab` bytes of the [workspace](crate::device::Gpu::reserve), half as much again where `hidden` is bf16, and
//!   8 a token.
//! - Error: loss 1e-6, gradients 3e-6, against float64 and PyTorch; a GPU within 2e-6 of the CPU. Where `hidden` is bf16,
//!   the logits' gradient is rounded to bf16, as every activation's, so that all products run on tensor cores.

use super::check::{Check, F32, FLOAT, U32};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// The label of a token that is not counted.
pub const IGNORE: u32 = super::params::KIUNGO_IGNORE_LABEL;

/// Loss `mean_t (log sum_v exp(z_tv) - z_t,label)` over counted tokens, with logits `z = hidden head^T`, and its
/// gradients. Without a counted token the loss and the gradients are zero.
///
/// - `hidden`: `[tokens, h]`, f32 or bf16, after the final norm
/// - `head`: `[vocab, h]`, f32 or bf16
/// - `labels`: `[tokens]`, u32, the token that follows, or [`IGNORE`]; another one beyond the vocabulary is an error on
///   the CPU, and makes the loss NaN on CUDA
/// - `loss`: `[1]`, f32, out
/// - `dhidden`: `[tokens, h]`, as `hidden`, out, every row
/// - `dhead`: `[vocab, h]`, f32, added to
///
/// A GPU holds the logits of 512 tokens at a time: 263 MB at the vocabulary of Llama 3, and their gradient in bf16
/// another 131 MB.
pub fn forward_backward(
    hidden: &Tensor,
    head: &Tensor,
    labels: &Tensor,
    loss: &mut Tensor,
    dhidden: Option<&mut Tensor>,
    dhead: Option<&mut Tensor>,
) -> super::Result {
    let check = Check::new("cross_entropy", hidden);
    let (tokens, h) = check.matrix("hidden", hidden)?;
    check.dtype("hidden", hidden, FLOAT)?;
    let (vocab, _) = check.matrix("head", head)?;
    check.tensor("head", head, &[vocab, h], FLOAT)?;
    check.tensor("labels", labels, &[tokens], U32)?;
    check.tensor("loss", loss, &[1], F32)?;
    if let Some(dhidden) = &dhidden {
        check.like("dhidden", dhidden, hidden)?;
    }
    if let Some(dhead) = &dhead {
        check.tensor("dhead", dhead, &[vocab, h], F32)?;
    }
    match check.device() {
        Device::Cpu => {
            let labels: &[u32] = labels.as_slice()?;
            check_labels(&check, labels, vocab)?;
            let value = with_float!(hidden.dtype(), T => with_float!(head.dtype(), H => {
                let dhidden = dhidden.map(|d| d.as_mut_slice::<T>()).transpose()?;
                let dhead = dhead.map(|d| d.as_mut_slice()).transpose()?;
                cpu::forward_backward::<T, H>(h, hidden.as_slice()?, head.as_slice()?, labels, dhidden, dhead)
            }));
            Ok(loss.write(&[value])?)
        }
        Device::Cuda(gpu) => cuda::forward_backward(gpu, hidden, head, labels, loss, dhidden, dhead),
    }
}

fn check_labels(check: &Check, labels: &[u32], vocab: usize) -> super::Result {
    let beyond = labels.iter().position(|&label| label != IGNORE && label as usize >= vocab);
    let message = |t: usize| format!("label {} of token {t} is beyond the vocabulary of {vocab}", labels[t]);
    check.value(beyond.is_none(), || beyond.map(message).unwrap_or_default())
}

/// The reference.
pub mod cpu {
    use super::IGNORE;
    use crate::ops::Float;
    use crate::ops::gemm::{Layout, cpu::gemm};
    use rayon::prelude::*;

    /// Tokens whose logits are held at once: 64 MiB at the vocabulary of Llama 3.
    const CHUNK: usize = 128;

    /// Returns the loss. See [`super::forward_backward`].
    pub fn forward_backward<T: Float, H: Float>(
        h: usize,
        hidden: &[T],
        head: &[H],
        labels: &[u32],
        mut dhidden: Option<&mut [T]>,
        mut dhead: Option<&mut [f32]>,
    ) -> f32 {
        let vocab = head.len() / h;
        let (hidden, head) = (T::widen(hidden), H::widen(head));
        let counted = labels.iter().filter(|&&label| label != IGNORE).count().max(1) as f64;
        let mut logits = vec![0.0f32; CHUNK.min(labels.len()) * vocab];
        let mut sum = 0.0;
        for (i, labels) in labels.chunks(CHUNK).enumerate() {
            let m = labels.len();
            let rows = i * CHUNK * h..(i * CHUNK + m) * h;
            let (hidden, logits) = (&hidden[rows.clone()], &mut logits[..m * vocab]);
            gemm(Layout::Nt, [m, vocab, h], hidden, &head, logits, false);
            let terms =
                logits.par_chunks_mut(vocab).zip(labels).map(|(z, &label)| differentiate::<T>(z, label, counted));
            // Collected before it is summed: the order of a parallel sum depends on the number of threads.
            sum += terms.collect::<Vec<f64>>().iter().sum::<f64>();
            if let Some(dhidden) = &mut dhidden {
                gemm(Layout::Nn, [m, h, vocab], logits, &head, &mut dhidden[rows], false);
            }
            if let Some(dhead) = &mut dhead {
                gemm(Layout::Tn, [vocab, h, m], logits, hidden, dhead, true);
            }
        }
        (sum / counted) as f32
    }

    /// Turns one token's logits into their gradient, `(softmax(z) - onehot(label)) / counted`, rounded to T; returns its
    /// loss.
    fn differentiate<T: Float>(z: &mut [f32], label: u32, counted: f64) -> f64 {
        if label == IGNORE {
            z.fill(0.0);
            return 0.0;
        }
        let label = label as usize;
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let own = z[label] - max;
        let mut sum = 0.0f64;
        for z in z.iter_mut() {
            *z = (*z - max).exp();
            sum += *z as f64;
        }
        let scale = (1.0 / (sum * counted)) as f32;
        z.iter_mut().for_each(|z| *z *= scale);
        z[label] -= (1.0 / counted) as f32;
        z.iter_mut().for_each(|z| *z = T::from_f32(*z).to_f32());
        sum.ln() - own as f64
    }
}

mod cuda {
    use crate::device::{DType, Gpu, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::gemm::{Layout, gemm};
    use crate::ops::params::CrossEntropyParams;

    /// Tokens whose logits are held at once.
    const CHUNK: usize = 512;
    /// Threads of the blocks that reduce over all tokens.
    const REDUCE_THREADS: u32 = 1024;
    /// Threads a row of logits.
    const ROW_THREADS: u32 = 256;

    /// Logits are f32; their gradient is of `hidden`'s type, in f32 in their place.
    pub fn forward_backward(
        gpu: &Gpu,
        hidden: &Tensor,
        head: &Tensor,
        labels: &Tensor,
        loss: &Tensor,
        dhidden: Option<&mut Tensor>,
        mut dhead: Option<&mut Tensor>,
    ) -> Result {
        let (tokens, vocab) = (hidden.rows(), head.rows());
        // No op below uses the workspace: it stays ours from the first launch to the last.
        let sums = ((tokens + 1) * size_of::<f64>()).next_multiple_of(256);
        let (elements, dtype) = (CHUNK.min(tokens) * vocab, hidden.dtype());
        let [wide, narrow] = match dtype {
            DType::F32 => [elements * size_of::<f32>(), 0],
            _ => [(elements * size_of::<f32>()).next_multiple_of(256), elements * dtype.size()],
        };
        let counted = gpu.workspace(sums + wide + narrow)?;
        let logits = counted + sums as u64;
        let dlogits = if narrow > 0 { logits + wide as u64 } else { logits };
        let params = CrossEntropyParams {
            logits,
            dlogits,
            labels: labels.address()?,
            counted,
            terms: counted + size_of::<f64>() as u64,
            loss: loss.address()?,
            tokens: tokens as u32,
            vocab: vocab as u32,
            ..Default::default()
        };
        let launch = |kernel, blocks: usize, threads, params| {
            gpu.launch(&Launch::new("cross_entropy", kernel, [blocks as u32, 1, 1], threads, params))
        };
        launch("cross_entropy_count", 1, REDUCE_THREADS, params)?;
        for first in (0..tokens).step_by(CHUNK) {
            let m = CHUNK.min(tokens - first);
            let hidden = rows(gpu, hidden, first, m)?;
            let mut logits = Tensor::borrowed(gpu, logits, DType::F32, &[m, vocab]);
            gemm(Layout::Nt, &hidden, head, &mut logits, false)?;
            let kernel = kernel_for!(dtype, "cross_entropy_rows");
            launch(kernel, m, ROW_THREADS, CrossEntropyParams { first: first as u32, ..params })?;
            let dlogits = Tensor::borrowed(gpu, dlogits, dtype, &[m, vocab]);
            if let Some(dhidden) = &dhidden {
                gemm(Layout::Nn, &dlogits, head, &mut rows(gpu, dhidden, first, m)?, false)?;
            }
            if let Some(dhead) = &mut dhead {
                gemm(Layout::Tn, &dlogits, &hidden, dhead, true)?;
            }
        }
        Ok(launch("cross_entropy_loss", 1, REDUCE_THREADS, params)?)
    }

    fn rows(gpu: &Gpu, t: &Tensor, first: usize, m: usize) -> Result<Tensor> {
        let offset = first * t.columns() * t.dtype().size();
        Ok(Tensor::borrowed(gpu, t.address()? + offset as u64, t.dtype(), &[m, t.columns()]))
    }
}
