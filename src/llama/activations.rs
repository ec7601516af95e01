//! Buffers of a block's passes, made once for the largest batch.

use super::PerProjection;
use super::config::{Config, Projection};
use crate::device::{DType, Device, DeviceError, Tensor};

/// What a block's forward pass leaves for its backward pass. Rows are tokens.
pub struct Activations {
    /// `1 / rms` of the block's input, `[tokens]` f32.
    pub input_inv_rms: Tensor,
    /// The block's input, normalised: what q, k and v read.
    pub attention_input: Tensor,
    /// Queries after the rotary embedding, `[tokens, heads * head_dim]`.
    pub q: Tensor,
    /// Keys after the rotary embedding, `[tokens, kv_heads * head_dim]`.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
    /// Log-sum-exp of each query's scores, `[tokens, heads]` f32.
    pub log_sum_exp: Tensor,
    /// Attention's result before the output projection.
    pub attended: Tensor,
    /// The residual stream between attention and MLP.
    pub middle: Tensor,
    /// `1 / rms` of `middle`.
    pub middle_inv_rms: Tensor,
    /// `middle`, normalised: what gate and up read.
    pub mlp_input: Tensor,
    /// The gate's pre-activation, `[tokens, intermediate]`.
    pub gate: Tensor,
    /// The other half.
    pub up: Tensor,
    /// `silu(gate) * up`.
    pub gated: Tensor,
    /// `x A^T` of each adapter, `[tokens, rank]` f32.
    pub low_rank: PerProjection<Tensor>,
}

impl Activations {
    /// For up to `tokens` tokens and adapters of rank `rank` (0 without).
    pub fn new(
        config: &Config,
        device: &Device,
        dtype: DType,
        tokens: usize,
        rank: usize,
    ) -> Result<Activations, DeviceError> {
        let matrix = |columns: usize| Tensor::zeros(device, dtype, &[tokens, columns]);
        let vector = || Tensor::zeros(device, DType::F32, &[tokens]);
        let (queries, keys) = (config.query_size(), config.key_size());
        Ok(Activations {
            input_inv_rms: vector()?,
            attention_input: matrix(config.hidden_size)?,
            q: matrix(queries)?,
            k: matrix(keys)?,
            v: matrix(keys)?,
            log_sum_exp: Tensor::zeros(device, DType::F32, &[tokens, config.heads])?,
            attended: matrix(queries)?,
            middle: matrix(config.hidden_size)?,
            middle_inv_rms: vector()?,
            mlp_input: matrix(config.hidden_size)?,
            gate: matrix(config.intermediate_size)?,
            up: matrix(config.intermediate_size)?,
            gated: matrix(config.intermediate_size)?,
            low_rank: PerProjection::try_from_fn(|_| Tensor::zeros(device, DType::F32, &[tokens, rank]))?,
        })
    }

    /// Uses the first `tokens` rows of every buffer.
    pub fn set_tokens(&mut self, tokens: usize) -> Result<(), DeviceError> {
        let buffers = [
            &mut self.input_inv_rms,
            &mut self.attention_input,
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.log_sum_exp,
            &mut self.attended,
            &mut self.middle,
            &mut self.middle_inv_rms,
            &mut self.mlp_input,
            &mut self.gate,
            &mut self.up,
            &mut self.gated,
        ];
        buffers.into_iter().chain(self.low_rank.iter_mut().map(|(_, t)| t)).try_for_each(|t| t.set_rows(tokens))
    }

    /// What a linear layer reads.
    pub fn input_of(&self, projection: Projection) -> &Tensor {
        match projection {
            Projection::Q | Projection::K | Projection::V => &self.attention_input,
            Projection::O => &self.attended,
            Projection::Gate | Projection::Up => &self.mlp_input,
            Projection::Down => &self.gated,
        }
    }

    /// Bytes of all buffers.
    pub fn bytes(config: &Config, dtype: DType, tokens: usize, rank: usize) -> usize {
        let wide =
            3 * config.hidden_size + 2 * config.query_size() + 2 * config.key_size() + 3 * config.intermediate_size;
        let single = 2 + config.heads + Projection::ALL.len() * rank;
        tokens * (wide * dtype.size() + single * DType::F32.size())
    }
}

/// Gradients of activations, shared by all blocks of a backward pass.
pub struct Scratch {
    /// Gradient of `q`.
    pub dq: Tensor,
    /// Gradient of `k`.
    pub dk: Tensor,
    /// Gradient of `v`.
    pub dv: Tensor,
    /// Gradient of `attended`.
    pub dattended: Tensor,
    /// Row sums of `dattended * attended`, `[tokens, heads]` f32.
    pub delta: Tensor,
    /// Gradient of a normalised input.
    pub dnormed: Tensor,
    /// Gradient of `gate`.
    pub dgate: Tensor,
    /// Gradient of `up`.
    pub dup: Tensor,
    /// Gradient of `gated`.
    pub dgated: Tensor,
    /// Gradient of each adapter's `x A^T`, `[tokens, rank]` f32.
    pub dlow_rank: PerProjection<Tensor>,
}

impl Scratch {
    /// For up to `tokens` tokens and adapters of rank `rank` (0 without).
    pub fn new(
        config: &Config,
        device: &Device,
        dtype: DType,
        tokens: usize,
        rank: usize,
    ) -> Result<Scratch, DeviceError> {
        let matrix = |columns: usize| Tensor::zeros(device, dtype, &[tokens, columns]);
        Ok(Scratch {
            dq: matrix(config.query_size())?,
            dk: matrix(config.key_size())?,
            dv: matrix(config.key_size())?,
            dattended: matrix(config.query_size())?,
            delta: Tensor::zeros(device, DType::F32, &[tokens, config.heads])?,
            dnormed: matrix(config.hidden_size)?,
            dgate: matrix(config.intermediate_size)?,
            dup: matrix(config.intermediate_size)?,
            dgated: matrix(config.intermediate_size)?,
            dlow_rank: PerProjection::try_from_fn(|_| Tensor::zeros(device, DType::F32, &[tokens, rank]))?,
        })
    }

    /// Uses the first `tokens` rows of every buffer.
    pub fn set_tokens(&mut self, tokens: usize) -> Result<(), DeviceError> {
        let Scratch { dq, dk, dv, dattended, delta, dnormed, dgate, dup, dgated, dlow_rank } = self;
        [dq, dk, dv, dattended, delta, dnormed, dgate, dup, dgated]
            .into_iter()
            .chain(dlow_rank.iter_mut().map(|(_, t)| t))
            .try_for_each(|t| t.set_rows(tokens))
    }

    /// Bytes of all buffers.
    pub fn bytes(config: &Config, dtype: DType, tokens: usize, rank: usize) -> usize {
        let wide = config.hidden_size + 2 * config.query_size() + 2 * config.key_size() + 3 * config.intermediate_size;
        let single = config.heads + Projection::ALL.len() * rank;
        tokens * (wide * dtype.size() + single * DType::F32.size())
    }
}
