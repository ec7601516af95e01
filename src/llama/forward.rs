//! The forward pass of a block and of a model.

use super::activations::Activations;
use super::adapters::Adapted;
use super::config::{Config, Projection, Projection::*};
use super::model::Block;
use crate::device::Tensor;
use crate::ops::attention::{self, Heads};
use crate::ops::sequences::Sequences;
use crate::ops::{Result, linear, lora, residual, rmsnorm, rope, swiglu};

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
        let low_rank = &mut kept.low_rank;
        let mut apply = |projection: Projection, x: &Tensor, y: &mut Tensor| {
            let weight = &self.linear[projection];
            match adapters.and_then(|a| a.factors(projection)) {
                Some(factors) => lora::linear(x, weight, &factors, &mut low_rank[projection], y),
                None => linear::forward(x, weight, y),
            }
        };

        rmsnorm::forward(input, &self.input_norm, config.rms_norm_eps, attention_input, input_inv_rms)?;
        apply(Q, attention_input, q)?;
        apply(K, attention_input, k)?;
        apply(V, attention_input, v)?;
        rope::forward_both(q, k, sequences.positions(), rope, config.head_dim)?;
        attention::forward(q, k, v, sequences, context.heads(), attended, log_sum_exp)?;
        apply(O, attended, middle)?;

        let Activations { middle_inv_rms, mlp_input, gate, up, gated, .. } = kept;
        let (norm, eps) = (&self.post_norm, config.rms_norm_eps);
        rmsnorm::forward_residual(middle, input, norm, eps, mlp_input, middle_inv_rms)?;
        apply(Gate, mlp_input, gate)?;
        apply(Up, mlp_input, up)?;
        swiglu::forward(gate, up, gated)?;
        apply(Down, gated, output)?;
        residual::add(output, middle)
    }
}
