//! A whole training run: epochs of steps, with the development pairs watched for collapse.

use super::batch::{Group, epoch_batches};
use super::evaluate::{EvaluateError, Probe};
use super::schedule::Schedule;
use super::settings::Settings;
use super::step::Trainer;
use crate::ops::OpError;
use crate::retrieval::words::{Collapse, Reading};
use serde::Serialize;
use std::time::Instant;

/// One step's line in `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct StepRecord {
    /// From 1.
    pub step: usize,
    /// From 1.
    pub epoch: usize,
    /// The batch's loss before the update.
    pub loss: f32,
    /// The rate of this update.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Wall time of the step, milliseconds.
    pub milliseconds: f64,
}

/// One epoch's line in `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRecord {
    /// From 1; 0 is the state before training.
    pub epoch: usize,
    /// Mean loss of the epoch's steps; none before training.
    pub mean_loss: Option<f32>,
    /// Mean cosine of the development pairs at the target layer.
    pub dev_cosine: Option<f64>,
    /// The same of shuffled pairs.
    pub dev_shuffled_cosine: Option<f64>,
    /// Precision@1 of word retrieval among the development pairs, mean of both directions.
    pub dev_precision_at_1: Option<f64>,
    /// Whether the embeddings have collapsed by then.
    pub collapsed: bool,
}

/// What happens while a run goes on.
pub enum Event<'a> {
    /// A step was taken.
    Step(&'a StepRecord),
    /// An epoch ended (or the run began: epoch 0).
    Epoch(&'a EpochRecord),
    /// The embeddings have just collapsed. Said once.
    Collapsed(Collapse),
}

/// What the observer of a run wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// The next step.
    On,
    /// No more steps.
    Stop,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An op failed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The development pairs could not be evaluated.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// The loss or the gradient is not a number; the weights are those before the step.
    #[error(
        "step {step}: the loss is {loss} and the gradient's norm {gradient_norm}; the weights were not changed. Pairs of the batch: {pairs}. Lower --lr, or set --clip 1"
    )]
    NotFinite {
        /// From 1.
        step: usize,
        /// The loss.
        loss: f32,
        /// The gradient's norm.
        gradient_norm: f32,
        /// The batch, in words.
        pairs: String,
    },
    /// The observer stopped the run, e.g. because the disk is full.
    #[error("{0}")]
    Observer(String),
}

/// Steps of a whole run.
pub fn total_steps(pairs: usize, settings: &Settings) -> usize {
    settings.epochs * pairs.div_ceil(settings.batch)
}

/// Trains for all epochs; `observe` sees every step and epoch. Returns the last reading on the development pairs.
pub fn run(
    trainer: &mut Trainer,
    train: &Group,
    dev: Option<&Probe>,
    settings: &Settings,
    mut observe: impl FnMut(Event) -> Result<Go, String>,
) -> Result<Option<Collapse>, RunError> {
    let mut tell = |event: Event| observe(event).map_err(RunError::Observer);
    let schedule = Schedule {
        peak: settings.learning_rate,
        warmup: settings.warmup,
        total: total_steps(train.len(), settings),
        decay: settings.schedule,
    };
    let mut watch = match dev {
        Some(probe) => Some(Watch::start(probe, trainer, settings)?),
        None => None,
    };
    tell(Event::Epoch(&epoch_record(0, None, watch.as_ref())))?;
    let mut step = 0;
    for epoch in 0..settings.epochs {
        let (mut sum, mut count) = (0.0, 0);
        for batch in epoch_batches(train.len(), epoch, settings) {
            let (begin, learning_rate) = (Instant::now(), schedule.rate(step));
            let report = trainer.step(train, &batch, step as u32, learning_rate)?;
            step += 1;
            if !(report.loss.is_finite() && report.gradient_norm.is_finite()) {
                let pairs = batch
                    .iter()
                    .map(|&i| format!("{} = {}", train.pairs[i].source, train.pairs[i].target))
                    .collect::<Vec<_>>()
                    .join("; ");
                let (loss, gradient_norm) = (report.loss, report.gradient_norm);
                return Err(RunError::NotFinite { step, loss, gradient_norm, pairs });
            }
            (sum, count) = (sum + report.loss, count + 1);
            let record = StepRecord {
                step,
                epoch: epoch + 1,
                loss: report.loss,
                learning_rate,
                gradient_norm: report.gradient_norm,
                milliseconds: begin.elapsed().as_secs_f64() * 1e3,
            };
            if tell(Event::Step(&record))? == Go::Stop {
                return Ok(watch.map(|w| w.verdict()));
            }
        }
        let first_collapse = match &mut watch {
            Some(watch) => watch.look(trainer, settings)?,
            None => None,
        };
        if let Some(collapse) = first_collapse {
            tell(Event::Collapsed(collapse))?;
        }
        tell(Event::Epoch(&epoch_record(epoch + 1, Some(sum / count as f32), watch.as_ref())))?;
    }
    Ok(watch.map(|w| w.verdict()))
}

fn epoch_record(epoch: usize, mean_loss: Option<f32>, watch: Option<&Watch>) -> EpochRecord {
    EpochRecord {
        epoch,
        mean_loss,
        dev_cosine: watch.map(|w| w.pair_cosine),
        dev_shuffled_cosine: watch.map(|w| w.now.shuffled_cosine),
        dev_precision_at_1: watch.map(|w| w.now.precision_at_1),
        collapsed: watch.is_some_and(|w| w.verdict().collapsed),
    }
}

/// The development pairs at the target layer, looked at after every epoch.
struct Watch<'a> {
    probe: &'a Probe<'a>,
    start: Reading,
    now: Reading,
    pair_cosine: f64,
    warned: bool,
}

impl<'a> Watch<'a> {
    fn start(probe: &'a Probe<'a>, trainer: &Trainer, settings: &Settings) -> Result<Watch<'a>, RunError> {
        let (reading, pair_cosine) = read(probe, trainer, settings)?;
        Ok(Watch { probe, start: reading, now: reading, pair_cosine, warned: false })
    }

    /// Reads again; returns the collapse if this is the first reading that shows one.
    fn look(&mut self, trainer: &Trainer, settings: &Settings) -> Result<Option<Collapse>, RunError> {
        (self.now, self.pair_cosine) = read(self.probe, trainer, settings)?;
        let verdict = self.verdict();
        let first = verdict.collapsed && !self.warned;
        self.warned |= verdict.collapsed;
        Ok(first.then_some(verdict))
    }

    fn verdict(&self) -> Collapse {
        Collapse::judge(self.start, self.now)
    }
}

fn read(probe: &Probe, trainer: &Trainer, settings: &Settings) -> Result<(Reading, f64), RunError> {
    let alignments = probe.measure(&trainer.model, trainer.learner.adapters(), &[settings.target])?;
    Ok((alignments[0].reading(), alignments[0].pair_cosine))
}
