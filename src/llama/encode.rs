//! Runs texts through the model, many at a time, and hands out states at chosen layers.

use super::activations::Activations;
use super::adapters::Adapters;
use super::forward::Context;
use super::layer::Layer;
use super::model::Model;
use crate::device::{DType, DeviceError, Tensor};
use crate::ops::sequences::Sequences;
use crate::ops::{OpError, Result, embedding, rmsnorm};
use std::ops::Range;

/// The states of some texts at one layer.
pub struct Encoded<'a> {
    /// Which of the texts.
    pub texts: Range<usize>,
    /// Where each of them begins and ends.
    pub sequences: &'a Sequences,
    /// The layer.
    pub layer: Layer,
    /// `[tokens, hidden]`, of the compute type.
    pub states: &'a Tensor,
}

/// A model with the buffers of a forward pass that keeps nothing: two states of the residual stream, and one
/// block's activations.
pub struct Encoder<'m> {
    model: &'m Model,
    adapters: Option<&'m Adapters>,
    budget: usize,
    state: Tensor,
    next: Tensor,
    activations: Activations,
    final_inv_rms: Tensor,
}

impl<'m> Encoder<'m> {
    /// Tokens run at a time, unless one text alone is longer.
    pub const TOKENS: usize = 4096;

    /// For texts of up to `longest` tokens.
    pub fn new(
        model: &'m Model,
        adapters: Option<&'m Adapters>,
        longest: usize,
    ) -> std::result::Result<Encoder<'m>, DeviceError> {
        let budget = longest.max(Self::TOKENS);
        let state = || Tensor::zeros(&model.device, model.compute, &[budget, model.config.hidden_size]);
        let rank = adapters.map_or(0, |a| a.rank);
        Ok(Encoder {
            budget,
            state: state()?,
            next: state()?,
            activations: Activations::new(&model.config, &model.device, model.compute, budget, rank)?,
            final_inv_rms: Tensor::zeros(&model.device, DType::F32, &[budget])?,
            model,
            adapters,
        })
    }

    /// Runs all texts, in order, and visits their states at each of `layers`, the lowest first.
    pub fn run(&mut self, texts: &[&[u32]], layers: &[Layer], mut visit: impl FnMut(Encoded) -> Result) -> Result {
        for texts_in_batch in self.batches(texts) {
            let batch = &texts[texts_in_batch.clone()];
            let lengths: Vec<usize> = batch.iter().map(|t| t.len()).collect();
            let ids: Vec<u32> = batch.concat();
            let tokens = ids.len();
            let ids = Tensor::from_vec(&self.model.device, ids, &[tokens])?;
            let sequences = Sequences::new(&self.model.device, &lengths)?;
            self.forward(&ids, &sequences, layers, |layer, states| {
                visit(Encoded { texts: texts_in_batch.clone(), sequences: &sequences, layer, states })
            })?;
        }
        Ok(())
    }

    /// Runs of texts that fit the budget together.
    fn batches(&self, texts: &[&[u32]]) -> Vec<Range<usize>> {
        let mut batches = vec![];
        let (mut start, mut tokens) = (0, 0);
        for (i, text) in texts.iter().enumerate() {
            if tokens + text.len() > self.budget && i > start {
                batches.push(start..i);
                (start, tokens) = (i, 0);
            }
            tokens += text.len();
        }
        if start < texts.len() {
            batches.push(start..texts.len());
        }
        batches
    }

    fn forward(
        &mut self,
        ids: &Tensor,
        sequences: &Sequences,
        layers: &[Layer],
        mut visit: impl FnMut(Layer, &Tensor) -> Result,
    ) -> Result {
        let Encoder { model, adapters, state, next, activations, final_inv_rms, .. } = self;
        let tokens = sequences.tokens();
        [&mut *state, &mut *next, final_inv_rms].into_iter().try_for_each(|t| t.set_rows(tokens))?;
        activations.set_tokens(tokens)?;
        let config = &model.config;
        let context = Context { config, rope: &model.rope, sequences };
        let top = layers.iter().map(|l| l.blocks(config)).max().unwrap_or(0);

        embedding::forward(&model.embedding, ids, state)?;
        for depth in 0..=top {
            if layers.contains(&Layer::Hidden(depth)) {
                visit(Layer::Hidden(depth), state)?;
            }
            if depth < top {
                let adapters = adapters.and_then(|a| a.of_block(depth, None));
                model.block(depth)?.forward(context, adapters, state, activations, next)?;
                std::mem::swap(state, next);
            }
        }
        if layers.contains(&Layer::Final) {
            let norm = model.final_norm.as_ref().ok_or_else(|| OpError::Value {
                op: "encode",
                message: "the final norm was not read with this model".into(),
            })?;
            rmsnorm::forward(state, norm, config.rms_norm_eps, next, final_inv_rms)?;
            visit(Layer::Final, next)?;
        }
        Ok(())
    }
}
