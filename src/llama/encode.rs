//! Runs texts through the model, many at a time, and hands out states at chosen layers.

use super::activations::Activations;
use super::adapters::Adapters;
use super::config::Config;
use super::forward::Context;
use super::layer::Layer;
use super::model::Model;
use crate::device::{DType, Device, Gpu, Mark, Staging, Tensor};
use crate::ops::sequences::Sequences;
use crate::ops::{OpError, Result, embedding, rmsnorm};
use std::collections::VecDeque;
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
    batch: Batch,
    sequences: Sequences,
}

/// What the host sends with each batch.
struct Batch {
    ids: Tensor,
    staging: Staging,
    /// Behind the batches that may still be running, the oldest first.
    running: VecDeque<(Mark, Done)>,
}

/// A batch that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its texts.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl<'m> Encoder<'m> {
    /// Tokens run at a time where nobody says more, unless one text alone is longer.
    pub const TOKENS: usize = 4096;
    /// Tokens that a GPU is given at a time where there are so many: enough that weights are read, and dequantised, in a
    /// fraction of the time that the products take.
    pub const MANY_TOKENS: usize = 16384;
    /// Bytes of memory from which on a GPU is given so many.
    const LARGE_CARD: usize = 30 << 30;
    /// Batches that the host may be ahead of the device.
    const AHEAD: usize = 2;

    /// For texts of up to `longest` tokens.
    pub fn new(
        model: &'m Model,
        adapters: Option<&'m Adapters>,
        longest: usize,
    ) -> std::result::Result<Encoder<'m>, OpError> {
        Encoder::with_budget(model, adapters, longest.max(Self::TOKENS))
    }

    /// Runs up to `budget` tokens at a time; no text may be longer.
    pub fn with_budget(
        model: &'m Model,
        adapters: Option<&'m Adapters>,
        budget: usize,
    ) -> std::result::Result<Encoder<'m>, OpError> {
        let device = &model.device;
        let state = || Tensor::uninitialized(device, model.compute, &[budget, model.config.hidden_size]);
        let rank = adapters.map_or(0, |a| a.rank);
        let staged = Sequences::staged_bytes(budget, budget).into_iter().chain([budget * size_of::<u32>()]);
        Ok(Encoder {
            budget,
            state: state()?,
            next: state()?,
            activations: Activations::new(&model.config, device, model.compute, budget, rank)?,
            final_inv_rms: Tensor::uninitialized(device, DType::F32, &[budget])?,
            batch: Batch {
                ids: Tensor::uninitialized(device, DType::U32, &[budget])?,
                staging: Staging::new(device, Self::AHEAD + 1, Staging::bytes(staged))?,
                running: VecDeque::new(),
            },
            sequences: Sequences::with_capacity(device, budget, budget)?,
            model,
            adapters,
        })
    }

    /// The tokens to run at a time for these texts.
    pub fn budget(device: &Device, texts: &[&[u32]]) -> usize {
        let (tokens, longest) = texts.iter().fold((0, 0), |(sum, most), t| (sum + t.len(), most.max(t.len())));
        Encoder::budget_for(device, tokens, longest)
    }

    /// The same for texts of so many tokens, the longest of so many: all of them, or as many as serve the device, or the
    /// longest text.
    pub fn budget_for(device: &Device, tokens: usize, longest: usize) -> usize {
        // A card too small for many has little of everything; what is free at the moment must not change results.
        let small = |gpu: &Gpu| gpu.memory().is_some_and(|memory| memory.total < Self::LARGE_CARD);
        let most = match device {
            Device::Cuda(gpu) if !small(gpu) => Self::MANY_TOKENS,
            _ => Self::TOKENS,
        };
        tokens.min(most).max(longest).max(1)
    }

    /// Bytes of the buffers of an encoder.
    pub fn bytes(config: &Config, compute: DType, budget: usize, rank: usize) -> usize {
        let staged: usize = Sequences::staged_bytes(budget, budget).into_iter().sum();
        let states = 2 * budget * config.hidden_size * compute.size();
        states + Activations::bytes(config, compute, budget, rank) + 2 * budget * size_of::<f32>() + staged
    }

    /// Runs all texts, in order, and visits their states at each of `layers`, the lowest first.
    ///
    /// On a GPU `visit` is called when a batch has been launched, before it has run: what it launches comes behind.
    pub fn run(&mut self, texts: &[&[u32]], layers: &[Layer], visit: impl FnMut(Encoded) -> Result) -> Result {
        self.run_with_progress(texts, layers, visit, |_| {})
    }

    /// The same; `progress` hears of each batch that has ended.
    pub fn run_with_progress(
        &mut self,
        texts: &[&[u32]],
        layers: &[Layer],
        mut visit: impl FnMut(Encoded) -> Result,
        progress: impl Fn(Done),
    ) -> Result {
        for texts_in_batch in batches(texts, self.budget) {
            let batch = &texts[texts_in_batch.clone()];
            let lengths: Vec<usize> = batch.iter().map(|t| t.len()).collect();
            self.batch.send(&batch.concat(), &lengths, &mut self.sequences, &progress)?;
            self.forward(layers, |layer, sequences, states| {
                visit(Encoded { texts: texts_in_batch.clone(), sequences, layer, states })
            })?;
            let done = Done { texts: lengths.len(), tokens: self.sequences.tokens() };
            self.batch.running.push_back((self.model.device.mark()?, done));
        }
        self.batch.wait_for(0, &progress)
    }

    fn forward(&mut self, layers: &[Layer], mut visit: impl FnMut(Layer, &Sequences, &Tensor) -> Result) -> Result {
        let Encoder { model, adapters, state, next, activations, final_inv_rms, batch, sequences, .. } = self;
        let tokens = sequences.tokens();
        [&mut *state, &mut *next, final_inv_rms].into_iter().try_for_each(|t| t.set_rows(tokens))?;
        activations.set_tokens(tokens)?;
        let config = &model.config;
        let context = Context { config, rope: &model.rope, sequences };
        let top = layers.iter().map(|l| l.blocks(config)).max().unwrap_or(0);

        embedding::forward(&model.embedding, &batch.ids, state)?;
        for depth in 0..=top {
            if layers.contains(&Layer::Hidden(depth)) {
                visit(Layer::Hidden(depth), sequences, state)?;
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
            visit(Layer::Final, sequences, next)?;
        }
        Ok(())
    }
}

impl Batch {
    /// Sends ids and places for what is launched next. Waits only for batches that are too far back.
    fn send(&mut self, ids: &[u32], lengths: &[usize], sequences: &mut Sequences, progress: impl Fn(Done)) -> Result {
        self.wait_for(Encoder::AHEAD, progress)?;
        self.staging.begin();
        sequences.set(&mut self.staging, lengths)?;
        self.ids.set_rows(ids.len())?;
        Ok(self.staging.write(ids, &mut self.ids)?)
    }

    /// Waits until at most so many batches may be running.
    fn wait_for(&mut self, most: usize, progress: impl Fn(Done)) -> Result {
        while self.running.len() > most {
            let Some((mark, done)) = self.running.pop_front() else { break };
            mark.wait()?;
            progress(done);
        }
        Ok(())
    }
}

/// Runs of texts that fit a budget of tokens together.
pub fn batches(texts: &[&[u32]], budget: usize) -> Vec<Range<usize>> {
    let mut batches = vec![];
    let (mut start, mut tokens) = (0, 0);
    for (i, text) in texts.iter().enumerate() {
        if tokens + text.len() > budget && i > start {
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
