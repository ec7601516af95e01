//! The forward pass of a block and of a model.

use super::activations::Activations;
use super::adapters::Adapted;
use super::config::Config;
use super::model::Block;
use crate::device::Tensor;
use crate::ops::attention::{self, Heads};
use crate::ops::sequences::Sequences;
use crate::ops::{Result, lora, residual, rmsnorm, rope, swiglu};

/// What every block of a pass shares.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The architecture.
    pub config: &'a Config,
    /// Rotary angles.
    pub rope: &'a rope::Table,
    /// Where each sequence begins and ends.
    pub sequences: &'a Sequences,
}

impl Context<'_> {
    pub(super) fn heads(&self) -> Heads {
        Heads { query: self.config.heads, key_value: self.config.kv_heads, dim: self.config.head_dim }
    }
}

impl Block {
    /// `output = middle + MLP(norm(middle))`, `middle = input + attention(norm(input))`.
    ///
    /// `input` and `output` are `[tokens, hidden]` of the compute type; `kept` receives what backward needs.
    pub fn forward(
        &self,
        context: Context,
        adapters: Option<Adapted>,
        input: &Tensor,
        kept: &mut Activations,
        output: &mut Tensor,
    ) -> Result {
        let Context { config, rope, sequences } = context;
        let Activations { input_inv_rms, attention_input, q, k, v, log_sum_exp, attended, middle, .. } = kept;
        let mut layers = self.linear.iter().zip(kept.low_rank.iter_mut()).map(|((projection, weight), (_, s))| {
            let factors = adapters.and_then(|a| a.factors(projection));
            (weight, factors.map(|factors| (factors, s)))
        });
        // In the order of the projections: those of one x together.
        let mut apply = |x: &Tensor, outputs: &mut [&mut Tensor]| {
            let layer = |(y, (weight, adapter))| lora::Layer { weight, adapter, y };
            lora::layers(x, &mut outputs.iter_mut().map(|y| &mut **y).zip(&mut layers).map(layer).collect::<Vec<_>>())
        };

        rmsnorm::forward(input, &self.input_norm, config.rms_norm_eps, attention_input, input_inv_rms)?;
        apply(attention_input, &mut [&mut *q, &mut *k, &mut *v])?;
        rope::forward_both(q, k, sequences.positions(), rope, config.head_dim)?;
        attention::forward(q, k, v, sequences, context.heads(), attended, log_sum_exp)?;
        apply(attended, &mut [&mut *middle])?;

        let Activations { middle_inv_rms, mlp_input, gate, up, gated, .. } = kept;
        let (norm, eps) = (&self.post_norm, config.rms_norm_eps);
        rmsnorm::forward_residual(middle, input, norm, eps, mlp_input, middle_inv_rms)?;
        apply(mlp_input, &mut [&mut *gate, &mut *up])?;
        swiglu::forward(gate, up, gated)?;
        apply(gated, &mut [&mut *output])?;
        residual::add(output, middle)
    }
}
