//! One optimisation step: from a batch of pairs to updated parameters.

mod diagnosis;
mod state;

use super::batch::{Batch, Group, Translations, largest_pass, padded_tokens};
use super::graphs::{Graphs, Shape};
use super::learner::{EmbeddingGradient, Learner};
use super::objective::Objective;
use super::optimizer::{LinearUpdates, Optimizer, Pass};
use super::plan::{Plan, updates_workspace};
use super::settings::{Dequantize, Keep, Settings, When};
use crate::device::{DType, Device, DeviceError, Gpu, Staging, Tensor};
use crate::llama::Layer;
use crate::llama::activations::{Activations, Scratch};
use crate::llama::adapters::StepDropout;
use crate::llama::config::Projection::*;
use crate::llama::encode::Encoder;
use crate::llama::forward::Context;
use crate::llama::model::Model;
use crate::ops::adamw::AdamW;
use crate::ops::attention::{self, Heads};
use crate::ops::infonce::{self, Direction};
use crate::ops::linear::Weight;
use crate::ops::params::StepRecord;
use crate::ops::step::{LATCHED, Metrics, State};
use crate::ops::{OpError, Result, contrast, embedding, lora, rmsnorm};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// What one step reports.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// The batch's loss, before the update.
    pub loss: f32,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f32,
    /// What became of the update.
    pub update: Update,
}

impl StepReport {
    /// Whether loss and gradient are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

/// What a step did to the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// They moved.
    Made,
    /// Nothing: its loss or gradient is not finite, as of no more steps than [`Trainer::skip`] allows.
    Skipped,
    /// Nothing, and no later step will. Weights that learn at once may have moved by the finite part of the gradient: then
    /// [`Trainer::is_whole`] says no.
    Stopped,
}

/// Steps that may be launched before the report of the first of them is taken: by so many, less one, metrics lag.
pub const UNDER_WAY: usize = 4;

/// Of all memory, the part that [`Dequantize::Auto`] leaves free: what evaluation may need.
pub const FREE_SHARE: usize = 10;

/// A model in training, with every buffer that its steps use.
pub struct Trainer {
    /// The model. In full training its weights change.
    pub model: Model,
    /// What learns.
    pub learner: Learner,
    settings: Settings,
    plan: Plan,
    optimizer: Optimizer,
    prefix: Option<Prefix>,
    translations: Translations,
    /// States between the blocks that steps run: `states[i]` is the input of block `prefix + i`.
    states: Vec<Tensor>,
    kept: Vec<Activations>,
    scratch: Scratch,
    gradient: Tensor,
    normed: Option<FinalNorm>,
    objective: Objective,
    /// What varies from step to step, and how it gets to the device.
    state: State,
    batch: Batch,
    staging: Staging,
    metrics: Metrics,
    graphs: Graphs,
    /// Launches so far, and those whose report was taken.
    launched: u32,
    reported: u32,
    /// Whether an update was begun and not made whole.
    torn: bool,
}

/// States of all training texts after the frozen blocks, computed once.
struct Prefix {
    states: Tensor,
    first_rows: Vec<usize>,
}

/// Buffers of the final norm, where the loss reads behind it.
struct FinalNorm {
    output: Tensor,
    inv_rms: Tensor,
    gradient: Tensor,
}

impl Trainer {
    /// Makes the learner, runs the frozen prefix over all of `group`, and allocates what steps need.
    pub fn new(
        mut model: Model,
        settings: &Settings,
        plan: &Plan,
        group: &Group,
        translations: Translations,
    ) -> Result<Trainer> {
        let learner = Learner::new(plan, settings, &mut model)?;
        Trainer::with_learner(model, learner, settings, plan, group, translations)
    }

    /// The same with a learner made elsewhere, e.g. from a saved adapter.
    pub fn with_learner(
        mut model: Model,
        mut learner: Learner,
        settings: &Settings,
        plan: &Plan,
        group: &Group,
        translations: Translations,
    ) -> Result<Trainer> {
        let are_one = learner.whole().is_some();
        let optimizer = Optimizer::new(&model.device.clone(), &learner.parameters(&mut model), are_one, settings)?;
        // A GPU replays the launches of a step, so batches are padded to shapes that recur; the CPU would only compute more.
        let pads = !model.device.is_cpu() && settings.chunk.is_none();
        let largest = largest_pass(group, settings);
        let (tokens, pairs) = (if pads { padded_tokens(largest) } else { largest }, settings.batch.min(group.len()));
        let texts = 2 * settings.chunk.map_or(pairs, |chunk| chunk.min(pairs));
        // Each part of a batch is staged for both of its passes.
        let passes = if settings.chunk.is_some() { 2 * (2 * pairs).div_ceil(texts) } else { 1 };
        let staged = Staging::bytes([State::BYTES, Batch::staged_bytes(pairs)])
            + passes * Staging::bytes(Batch::selected_bytes(2 * pairs, tokens));
        let rank = learner.adapters().map_or(0, |a| a.rank);
        reserve(&model, tokens, pairs, rank, settings)?;
        let (config, device, compute) = (&model.config, &model.device, model.compute);
        let blocks = plan.blocks - plan.prefix;
        let state = || Tensor::zeros(device, compute, &[tokens, config.hidden_size]);
        let normed = match settings.target {
            Layer::Final => Some(FinalNorm {
                output: state()?,
                inv_rms: Tensor::zeros(device, DType::F32, &[tokens])?,
                gradient: state()?,
            }),
            Layer::Hidden(_) => None,
        };
        let (mut state_of_step, mut batch) = (State::new(device)?, Batch::with_capacity(device, pairs, tokens, pads)?);
        let mut staging = Staging::new(device, UNDER_WAY, staged)?;
        staging.gather([state_of_step.tensor_mut()].into_iter().chain(batch.selected_mut()).collect())?;
        let mut trainer = Trainer {
            prefix: if plan.prefix > 0 { Some(Prefix::new(&model, plan.prefix, group)?) } else { None },
            states: (0..=blocks).map(|_| state()).collect::<std::result::Result<_, DeviceError>>()?,
            kept: (0..if settings.keep == Keep::States { blocks.min(1) } else { blocks })
                .map(|_| Activations::new(config, device, compute, tokens, rank))
                .collect::<std::result::Result<_, DeviceError>>()?,
            scratch: Scratch::new(config, device, compute, tokens, rank)?,
            gradient: state()?,
            normed,
            objective: Objective::new(device, pairs, texts, config.hidden_size)?,
            state: state_of_step,
            batch,
            staging,
            metrics: Metrics::new(device, UNDER_WAY as u32)?,
            graphs: Graphs::default(),
            launched: 0,
            reported: 0,
            torn: false,
            optimizer,
            settings: settings.clone(),
            plan: plan.clone(),
            translations,
            learner,
            model,
        };
        trainer.dequantize()?;
        Ok(trainer)
    }

    /// Holds the 4-bit weights of the blocks that steps run in bf16, where the settings and the memory have it so.
    fn dequantize(&mut self) -> Result {
        let Device::Cuda(gpu) = &self.model.device else { return Ok(()) };
        let blocks = &mut self.model.blocks[self.plan.prefix..self.plan.blocks];
        let mut weights: Vec<&mut Weight> =
            blocks.iter_mut().flat_map(|b| b.linear.iter_mut().map(|(_, w)| w)).collect();
        let bytes: usize = weights.iter().map(|w| w.workspace_bytes()).sum();
        let once = match self.settings.dequantize {
            Dequantize::Once => true,
            Dequantize::EachStep => false,
            Dequantize::Auto => gpu.memory().is_some_and(|m| m.free >= bytes + m.total / FREE_SHARE),
        };
        if once {
            for weight in &mut weights {
                weight.expand()?;
            }
        }
        Ok(())
    }

    /// One step on these pairs of the group, at this learning rate, from its launch to its report. `step` counts from
    /// 0 and seeds dropout.
    pub fn step(&mut self, group: &Group, pairs: &[usize], step: u32, learning_rate: f64) -> Result<StepReport> {
        self.launch(group, pairs, step, learning_rate)?;
        let mut last = None;
        while let Some(report) = self.wait()? {
            last = Some(report);
        }
        last.ok_or_else(|| OpError::Value { op: "step", message: "the step has left no report".into() })
    }

    /// Launches a step, and does not wait for it: its report comes from [`Trainer::report`] or [`Trainer::wait`].
    ///
    /// An error where [`UNDER_WAY`] steps are under way: take a report first.
    pub fn launch(&mut self, group: &Group, pairs: &[usize], step: u32, learning_rate: f64) -> Result {
        self.stage(group, pairs, step, learning_rate)?;
        // Parts of batches take their input from the host one after another, which no recording holds.
        match self.model.device.clone() {
            Device::Cuda(gpu) if self.settings.chunk.is_none() => {
                let shape = self.shape(&gpu)?;
                let mut graphs = std::mem::take(&mut self.graphs);
                let done = graphs.run(&gpu, shape, || self.update());
                self.graphs = graphs;
                done?;
            }
            _ => self.update()?,
        }
        self.launched += 1;
        Ok(())
    }

    /// The launches of a step whose batch is staged.
    fn update(&mut self) -> Result {
        match (self.settings.update, self.settings.clip) {
            (When::Together, _) => {
                self.add_gradients()?;
                self.judge()?;
            }
            (When::AtOnce, None) => {
                self.forward()?;
                self.compare_and_spread()?;
                self.optimizer.begin(self.objective.loss())?;
                self.torn = true;
                self.backward(Pass::Update)?;
                self.judge()?;
            }
            (When::AtOnce, Some(_)) => {
                self.forward()?;
                self.compare_and_spread()?;
                self.optimizer.begin(self.objective.loss())?;
                self.backward(Pass::Measure)?;
                self.judge()?;
                self.clear_gradients()?;
                self.spread()?;
                self.torn = true;
                self.backward(Pass::Update)?;
            }
        }
        self.torn = true;
        let Trainer { model, learner, optimizer, state, .. } = self;
        optimizer.apply(state, learner, model)?;
        self.torn = false;
        Ok(())
    }

    /// Adds the gradients of the staged batch: of all its texts together, or of a part of them at a time, as their states
    /// were when the whole batch was compared (Gao et al. 2021, arXiv 2101.06983).
    fn add_gradients(&mut self) -> Result {
        let Some(chunk) = self.settings.chunk else {
            self.forward()?;
            self.compare_and_spread()?;
            return self.backward(Pass::Update);
        };
        let parts = self.parts(chunk);
        for part in &parts {
            self.select(part.clone())?;
            self.forward()?;
            self.pool()?;
        }
        self.objective.compare(&self.settings, &self.batch)?;
        for part in parts {
            self.select(part)?;
            self.forward()?;
            self.spread()?;
            self.backward(Pass::Update)?;
        }
        Ok(())
    }

    /// The texts of each part of the staged batch.
    fn parts(&self, chunk: usize) -> Vec<Range<usize>> {
        let texts = 2 * self.batch.pairs;
        (0..texts).step_by(2 * chunk).map(|first| first..texts.min(first + 2 * chunk)).collect()
    }

    /// Stages some of the batch's texts, for the passes that follow.
    fn select(&mut self, texts: Range<usize>) -> Result {
        self.batch.select(&mut self.staging, texts)?;
        self.staging.flush()?;
        self.set_tokens(self.batch.sequences.tokens())
    }

    fn judge(&mut self) -> Result {
        let Trainer { model, learner, optimizer, state, objective, metrics, .. } = self;
        optimizer.judge(state, objective.loss(), metrics, learner, model)
    }

    /// Of the parameters whose gradients are kept.
    fn clear_gradients(&mut self) -> Result {
        if let Some(whole) = self.learner.whole() {
            return Ok(whole.gradient.fill_zero()?);
        }
        let parameters = self.learner.parameters(&mut self.model);
        parameters.into_iter().filter_map(|p| p.gradient).try_for_each(|g| Ok(g.fill_zero()?))
    }

    /// What the arguments of [`Trainer::update`]'s launches depend on.
    fn shape(&self, gpu: &Gpu) -> Result<Shape> {
        let mut addresses = DefaultHasher::new();
        for tensor in self.model.tensors().chain(self.model.rope.tensors()).chain(self.learner.tensors()) {
            tensor.address()?.hash(&mut addresses);
        }
        Ok(Shape {
            tokens: self.batch.sequences.tokens(),
            longest: self.batch.sequences.max_length(),
            pairs: self.batch.pairs,
            excluded: self.batch.excluded().is_some(),
            workspace_bytes: gpu.workspace_bytes(),
            addresses: addresses.finish(),
        })
    }

    /// Steps that were launched and whose report was not taken.
    pub fn under_way(&self) -> usize {
        (self.launched - self.reported) as usize
    }

    /// The report of the oldest step under way, if it is there.
    pub fn report(&mut self) -> Option<StepReport> {
        let record = (self.under_way() > 0).then(|| self.metrics.read(self.reported + 1)).flatten();
        record.map(|record| self.take(record))
    }

    /// The same, waiting for it; None where no step is under way.
    pub fn wait(&mut self) -> Result<Option<StepReport>> {
        if self.under_way() == 0 {
            return Ok(None);
        }
        let record = self.metrics.wait(&self.model.device, self.reported + 1)?;
        Ok(Some(self.take(record)))
    }

    /// The oldest report if it is there, or if no further step can be launched without it.
    pub fn report_or_room(&mut self) -> Result<Option<StepReport>> {
        if self.under_way() >= UNDER_WAY { self.wait() } else { Ok(self.report()) }
    }

    fn take(&mut self, record: StepRecord) -> StepReport {
        self.reported += 1;
        let update = match record.stopped {
            0 => Update::Made,
            LATCHED => Update::Stopped,
            _ => Update::Skipped,
        };
        let before_the_norm = self.settings.update == When::AtOnce && self.settings.clip.is_none();
        self.torn |= update == Update::Stopped && before_the_norm && record.loss.is_finite();
        StepReport { loss: record.loss, gradient_norm: record.gradient_norm, update }
    }

    /// Forward and backward alone: the loss, with the gradients added to the learner's. Waits for the device.
    pub fn gradients(&mut self, group: &Group, pairs: &[usize], step: u32) -> Result<f32> {
        if self.settings.update == When::AtOnce {
            let message = "weights that learn at once leave no gradients".into();
            return Err(OpError::Value { op: "step", message });
        }
        self.stage(group, pairs, step, 0.0)?;
        self.add_gradients()?;
        Ok(self.objective.loss().to_vec::<f32>()?[0])
    }

    /// Sends what differs from the step before: its number and rates, and its pairs.
    fn stage(&mut self, group: &Group, pairs: &[usize], step: u32, lr: f64) -> Result {
        if self.under_way() >= UNDER_WAY {
            let message = format!("{UNDER_WAY} steps are under way: take a report before the next one");
            return Err(OpError::Value { op: "step", message });
        }
        // The report of the step that staged here before was taken, so its copies have been made.
        self.staging.begin();
        let adamw = AdamW { lr, weight_decay: self.settings.weight_decay, ..AdamW::default() };
        let (serial, clip) = (self.launched + 1, self.settings.clip);
        self.state.set(&mut self.staging, step, serial, adamw.coefficients(step + 1), clip)?;
        let first_rows = self.prefix.as_ref().map(|p| p.first_rows.as_slice());
        self.batch.set(&mut self.staging, group, pairs, first_rows, &self.translations)?;
        match self.settings.chunk {
            None => self.select(0..2 * pairs.len()),
            Some(_) => Ok(self.staging.flush()?),
        }
    }

    fn set_tokens(&mut self, tokens: usize) -> Result {
        self.states.iter_mut().try_for_each(|t| t.set_rows(tokens))?;
        self.kept.iter_mut().try_for_each(|k| k.set_tokens(tokens))?;
        if let Some(FinalNorm { output, inv_rms, gradient }) = &mut self.normed {
            [output, inv_rms, gradient].into_iter().try_for_each(|t| t.set_rows(tokens))?;
        }
        self.scratch.set_tokens(tokens)?;
        Ok(self.gradient.set_rows(tokens)?)
    }

    fn forward(&mut self) -> Result {
        let table = self.prefix.as_ref().map_or(&self.model.embedding, |p| &p.states);
        embedding::forward(table, &self.batch.rows, &mut self.states[0])?;
        for block in self.plan.prefix..self.plan.blocks {
            self.forward_block(block)?;
        }
        let top = &self.states[self.plan.blocks - self.plan.prefix];
        if let (Some(normed), Some(norm)) = (&mut self.normed, &self.model.final_norm) {
            let eps = self.model.config.rms_norm_eps;
            rmsnorm::forward(top, norm, eps, &mut normed.output, &mut normed.inv_rms)?;
        }
        Ok(())
    }

    fn forward_block(&mut self, block: usize) -> Result {
        let Trainer { model, learner, states, kept, batch, state, settings, plan, .. } = self;
        let context = Context { config: &model.config, rope: &model.rope, sequences: &batch.sequences };
        let adapters = learner.adapters().and_then(|a| a.of_block(block, dropout(settings, state, batch)));
        let i = block - plan.prefix;
        let kept = &mut kept[if settings.keep == Keep::States { 0 } else { i }];
        let [input, output] = &mut states[i..i + 2] else { unreachable!("one state more than blocks") };
        model.blocks[block].forward(context, adapters, input, kept, output)
    }

    /// The loss of a whole batch whose states are there.
    fn compare(&mut self) -> Result {
        self.pool()?;
        self.objective.compare(&self.settings, &self.batch)
    }

    /// The same, and [`Trainer::spread`].
    fn compare_and_spread(&mut self) -> Result {
        let Trainer { states, normed, gradient, objective, settings, batch, plan, .. } = self;
        let (hidden, dhidden) = match normed {
            Some(normed) => (&normed.output, &mut normed.gradient),
            None => (&states[plan.blocks - plan.prefix], gradient),
        };
        if objective.contrast(settings, batch, hidden, dhidden)? {
            return self.spread_behind_norm();
        }
        self.compare()?;
        self.spread()
    }

    fn pool(&mut self) -> Result {
        let top = &self.states[self.plan.blocks - self.plan.prefix];
        let hidden = self.normed.as_ref().map_or(top, |normed| &normed.output);
        self.objective.pool(&self.settings, &self.batch, hidden)
    }

    /// Leaves the gradient of the last block's output in `self.gradient`.
    fn spread(&mut self) -> Result {
        let dhidden = self.normed.as_mut().map_or(&mut self.gradient, |normed| &mut normed.gradient);
        self.objective.spread(&self.settings, &self.batch, dhidden)?;
        self.spread_behind_norm()
    }

    /// From the gradient of the final norm's output, where the loss reads behind it, to that of its input.
    fn spread_behind_norm(&mut self) -> Result {
        let top = &self.states[self.plan.blocks - self.plan.prefix];
        let (Some(normed), Some(norm)) = (&mut self.normed, &self.model.final_norm) else { return Ok(()) };
        self.gradient.fill_zero()?;
        let dweight = self.learner.final_norm();
        rmsnorm::backward(&normed.gradient, top, norm, &normed.inv_rms, &mut self.gradient, dweight)
    }

    fn backward(&mut self, pass: Pass) -> Result {
        for block in (self.plan.prefix..self.plan.blocks).rev() {
            if self.settings.keep == Keep::States {
                self.forward_block(block)?;
            }
            self.backward_block(block, pass)?;
        }
        let (dy, ids) = (&self.gradient, &self.batch.rows);
        match self.learner.embedding() {
            Some(EmbeddingGradient::Kept(dtable)) => embedding::backward(dy, ids, dtable),
            Some(EmbeddingGradient::AtOnce(master)) => LinearUpdates::new(&mut self.optimizer, &self.state, pass)
                .learn_embedding(&mut self.model.embedding, master, dy, ids),
            None => Ok(()),
        }
    }

    fn backward_block(&mut self, block: usize, pass: Pass) -> Result {
        let Trainer { model, learner, states, kept, scratch, gradient, plan, batch, state, settings, .. } = self;
        let dropout = dropout(settings, state, batch);
        let context = Context { config: &model.config, rope: &model.rope, sequences: &batch.sequences };
        let i = block - plan.prefix;
        let input_gradient = block > plan.prefix || plan.embedding;
        let mut updates = LinearUpdates::new(&mut self.optimizer, state, pass);
        let (adapters, gradients) = learner.block(block, &mut updates);
        let adapters = adapters.and_then(|a| a.of_block(block, dropout));
        let kept = &kept[if settings.keep == Keep::States { 0 } else { i }];
        model.blocks[block].backward(context, adapters, &states[i], kept, gradient, scratch, gradients, input_gradient)
    }
}

/// Makes the workspace as large as the largest batch needs it, so that it grows in no step.
fn reserve(model: &Model, tokens: usize, pairs: usize, rank: usize, settings: &Settings) -> Result {
    let Device::Cuda(gpu) = &model.device else { return Ok(()) };
    let at_once = settings.update == When::AtOnce;
    // All blocks are alike.
    let products = model.blocks.iter().take(1).flat_map(|block| {
        // Those of one input share launches.
        [&[Q, K, V][..], &[O], &[Gate, Up], &[Down]].map(|projections| {
            let weights: Vec<&Weight> = projections.iter().map(|&p| &block.linear[p]).collect();
            match rank {
                0 => weights.iter().map(|weight| weight.workspace_bytes()).max().unwrap_or(0),
                rank => lora::layers_workspace(gpu, tokens, &weights, rank),
            }
        })
    });
    let products = products.max().unwrap_or(0);
    let norm = rmsnorm::workspace(gpu, tokens, model.config.hidden_size);
    let heads = Heads { query: model.config.heads, key_value: model.config.kv_heads, dim: model.config.head_dim };
    let attention = attention::workspace(gpu, model.compute, tokens, heads);
    let loss =
        infonce::workspace_bytes(pairs, Direction::Both).max(contrast::workspace_bytes(model.config.hidden_size));
    let updates = if at_once { updates_workspace(&model.config, &model.device, settings, tokens) } else { 0 };
    Ok(gpu.reserve([products, norm, attention, loss, updates].into_iter().max().unwrap_or(0))?)
}

fn dropout<'a>(settings: &Settings, state: &'a State, batch: &Batch) -> Option<StepDropout<'a>> {
    let Settings { dropout: probability, seed, .. } = *settings;
    Some(StepDropout { probability, seed, state, first_token: batch.first_token })
}

impl Prefix {
    fn new(model: &Model, blocks: usize, group: &Group) -> Result<Prefix> {
        let texts: Vec<&[u32]> = group.sources.iter().chain(&group.targets).map(Vec::as_slice).collect();
        let mut states = Tensor::zeros(&model.device, model.compute, &[group.tokens(), model.config.hidden_size])?;
        let first_rows: Vec<usize> = texts
            .iter()
            .scan(0, |next, text| {
                let first = *next;
                *next += text.len();
                Some(first)
            })
            .collect();
        Encoder::new(model, None, group.longest())?.run(&texts, &[Layer::Hidden(blocks)], |batch| {
            let first = first_rows[batch.texts.start];
            Ok(states.copy_rows(first, batch.states, 0, batch.sequences.tokens())?)
        })?;
        Ok(Prefix { states, first_rows })
    }
}
