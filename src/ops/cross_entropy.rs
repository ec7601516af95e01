//! The language-model loss: cross-entropy of the next token, with the output matrix inside, so that logits of all
//! tokens at once are never held.

use super::check::{Check, F32, FLOAT, U32};
use super::float::with_float;
use crate::device::{Device, Tensor};

/// The label of a token that is not counted.
pub const IGNORE: u32 = u32::MAX;

/// Loss `mean_t (log sum_v exp(z_tv) - z_t,label)` over counted tokens, with logits `z = hidden head^T`, and its
/// gradients. Without a counted token the loss and the gradients are zero.
///
/// - `hidden`: `[tokens, h]`, f32 or bf16, after the final norm
/// - `head`: `[vocab, h]`, f32 or bf16
/// - `labels`: `[tokens]`, u32, the token that follows, or [`IGNORE`]; another one beyond the vocabulary is an error
/// - `loss`: `[1]`, f32, out
/// - `dhidden`: `[tokens, h]`, as `hidden`, out, every row
/// - `dhead`: `[vocab, h]`, f32, added to
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
        Device::Cuda(_) => check.no_kernel("any type"),
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
            let terms = logits.par_chunks_mut(vocab).zip(labels).map(|(z, &label)| differentiate(z, label, counted));
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

    /// Turns one token's logits into their gradient, `(softmax(z) - onehot(label)) / counted`; returns its loss.
    fn differentiate(z: &mut [f32], label: u32, counted: f64) -> f64 {
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
        sum.ln() - own as f64
    }
}
