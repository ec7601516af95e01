//! One optimisation step: from a batch of pairs to updated parameters.

use super::batch::{Batch, Group, Translations, largest_batch};
use super::learner::Learner;
use super::objective::Objective;
use super::optimizer::{Optimizer, Update};
use super::plan::Plan;
use super::settings::Settings;
use crate::device::{DType, DeviceError, Tensor};
use crate::llama::Layer;
use crate::llama::activations::{Activations, Scratch};
use crate::llama::adapters::StepDropout;
use crate::llama::encode::Encoder;
use crate::llama::forward::Context;
use crate::llama::model::Model;
use crate::ops::adamw::AdamW;
use crate::ops::{Result, embedding, rmsnorm};

/// What one step reports.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// The batch's loss, before the update.
    pub loss: f32,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f32,
}

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
        model: Model,
        settings: &Settings,
        plan: &Plan,
        group: &Group,
        translations: Translations,
    ) -> Result<Trainer> {
        let learner = Learner::new(plan, settings, &model)?;
        Trainer::with_learner(model, learner, settings, plan, group, translations)
    }

    /// The same with a learner made elsewhere, e.g. from a saved adapter.
    pub fn with_learner(
        model: Model,
        learner: Learner,
        settings: &Settings,
        plan: &Plan,
        group: &Group,
        translations: Translations,
    ) -> Result<Trainer> {
        let tokens = largest_batch(group, settings.batch);
        let rank = learner.adapters().map_or(0, |a| a.rank);
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
        Ok(Trainer {
            prefix: if plan.prefix > 0 { Some(Prefix::new(&model, plan.prefix, group)?) } else { None },
            states: (0..=blocks).map(|_| state()).collect::<std::result::Result<_, DeviceError>>()?,
            kept: (0..blocks)
                .map(|_| Activations::new(config, device, compute, tokens, rank))
                .collect::<std::result::Result<_, DeviceError>>()?,
            scratch: Scratch::new(config, device, compute, tokens, rank)?,
            gradient: state()?,
            normed,
            objective: Objective::new(device, settings.batch.min(group.len()), config.hidden_size)?,
            optimizer: Optimizer::default(),
            settings: settings.clone(),
            plan: plan.clone(),
            translations,
            learner,
            model,
        })
    }

    /// One step on these pairs of the group, at this learning rate. `step` counts from 0 and seeds dropout.
    pub fn step(&mut self, group: &Group, pairs: &[usize], step: u32, learning_rate: f64) -> Result<StepReport> {
        let loss = self.gradients(group, pairs, step)?;
        let hyper =
            AdamW { lr: learning_rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: self.settings.weight_decay };
        let device = self.model.device.clone();
        let mut parameters = self.learner.parameters(&mut self.model);
        let Update { gradient_norm } = self.optimizer.step(&device, &hyper, self.settings.clip, &mut parameters)?;
        Ok(StepReport { loss, gradient_norm })
    }

    /// Forward and backward alone: the loss, with the gradients added to the learner's.
    pub fn gradients(&mut self, group: &Group, pairs: &[usize], step: u32) -> Result<f32> {
        let first_rows = self.prefix.as_ref().map(|p| p.first_rows.as_slice());
        let batch = Batch::new(&self.model.device, group, pairs, first_rows, &self.translations)?;
        self.set_tokens(batch.sequences.tokens())?;
        let dropout = Some(StepDropout { probability: self.settings.dropout, seed: self.settings.seed, step });
        self.forward(&batch, dropout)?;
        let loss = self.objective(&batch)?;
        self.backward(&batch, dropout)?;
        Ok(loss)
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

    fn forward(&mut self, batch: &Batch, dropout: Option<StepDropout>) -> Result {
        let Trainer { model, learner, states, kept, .. } = self;
        let table = self.prefix.as_ref().map_or(&model.embedding, |p| &p.states);
        embedding::forward(table, &batch.rows, &mut states[0])?;
        let context = Context { config: &model.config, rope: &model.rope, sequences: &batch.sequences };
        for (i, kept) in kept.iter_mut().enumerate() {
            let block = self.plan.prefix + i;
            let adapters = learner.adapters().and_then(|a| a.of_block(block, dropout));
            let [input, output] = &mut states[i..i + 2] else { unreachable!("one state more than blocks") };
            model.blocks[block].forward(context, adapters, input, kept, output)?;
        }
        if let (Some(normed), Some(norm)) = (&mut self.normed, &model.final_norm) {
            let eps = model.config.rms_norm_eps;
            rmsnorm::forward(&states[kept.len()], norm, eps, &mut normed.output, &mut normed.inv_rms)?;
        }
        Ok(())
    }

    /// The loss; leaves the gradient of the last block's output in `self.gradient`.
    fn objective(&mut self, batch: &Batch) -> Result<f32> {
        let top = &self.states[self.kept.len()];
        let (Some(normed), Some(norm)) = (&mut self.normed, &self.model.final_norm) else {
            return self.objective.run(&self.settings, batch, top, &mut self.gradient);
        };
        let loss = self.objective.run(&self.settings, batch, &normed.output, &mut normed.gradient)?;
        self.gradient.fill_zero()?;
        let dweight = self.learner.final_norm();
        rmsnorm::backward(&normed.gradient, top, norm, &normed.inv_rms, &mut self.gradient, dweight)?;
        Ok(loss)
    }

    fn backward(&mut self, batch: &Batch, dropout: Option<StepDropout>) -> Result {
        let Trainer { model, learner, states, kept, scratch, gradient, plan, .. } = self;
        let context = Context { config: &model.config, rope: &model.rope, sequences: &batch.sequences };
        let lowest = plan.prefix;
        for block in (lowest..plan.blocks).rev() {
            let i = block - lowest;
            let input_gradient = block > lowest || plan.embedding;
            let (adapters, gradients) = learner.block(block);
            let adapters = adapters.and_then(|a| a.of_block(block, dropout));
            model.blocks[block].backward(
                context,
                adapters,
                &states[i],
                &kept[i],
                gradient,
                scratch,
                gradients,
                input_gradient,
            )?;
        }
        match learner.embedding() {
            Some(dtable) => embedding::backward(gradient, &batch.rows, dtable),
            None => Ok(()),
        }
    }
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
