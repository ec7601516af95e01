//! A whole training run: epochs of steps, with the development pairs watched for collapse.

use super::batch::{Group, epoch_batches};
use super::evaluate::{EvaluateError, Probe};
use super::schedule::Schedule;
use super::settings::Settings;
use super::step::{StepReport, Trainer};
use crate::ops::OpError;
use crate::retrieval::words::{Collapse, Reading};
use serde::Serialize;
use std::collections::VecDeque;
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
    /// Wall time since the step before was seen to end, milliseconds.
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
///
/// Steps are launched ahead of their reports, by up to [`UNDER_WAY`](super::step::UNDER_WAY) less one; an epoch ends when all of its steps are
/// reported. After [`Go::Stop`] no step is launched; those under way are not reported.
pub fn run(
    trainer: &mut Trainer,
    train: &Group,
    dev: Option<&Probe>,
    settings: &Settings,
    observe: impl FnMut(Event) -> Result<Go, String>,
) -> Result<Option<Collapse>, RunError> {
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
    let mut log = Log::new(train, observe);
    log.tell(Event::Epoch(&epoch_record(0, None, watch.as_ref())))?;
    let mut step = 0;
    for epoch in 0..settings.epochs {
        for pairs in epoch_batches(train.len(), epoch, settings) {
            let learning_rate = schedule.rate(step);
            trainer.launch(train, &pairs, step as u32, learning_rate)?;
            step += 1;
            log.launched.push_back(Launched { step, epoch: epoch + 1, learning_rate, pairs });
            // Steps that are done already, and the oldest where there is no room for the next one.
            while let Some(report) = trainer.report_or_room()? {
                if log.step(report)? == Go::Stop {
                    return Ok(watch.map(|w| w.verdict()));
                }
            }
        }
        while let Some(report) = trainer.wait()? {
            if log.step(report)? == Go::Stop {
                return Ok(watch.map(|w| w.verdict()));
            }
        }
        let first_collapse = match &mut watch {
            Some(watch) => watch.look(trainer, settings)?,
            None => None,
        };
        if let Some(collapse) = first_collapse {
            log.tell(Event::Collapsed(collapse))?;
        }
        let mean_loss = log.mean_loss();
        log.tell(Event::Epoch(&epoch_record(epoch + 1, Some(mean_loss), watch.as_ref())))?;
        log.since = Instant::now();
    }
    Ok(watch.map(|w| w.verdict()))
}

/// A step whose report has not come.
struct Launched {
    step: usize,
    epoch: usize,
    learning_rate: f64,
    pairs: Vec<usize>,
}

/// Brings reports and what is known of their steps together, for the observer.
struct Log<'a, O> {
    train: &'a Group,
    observe: O,
    launched: VecDeque<Launched>,
    /// When the step before was seen to end, or the epoch began.
    since: Instant,
    losses: (f32, usize),
}

impl<'a, O: FnMut(Event) -> Result<Go, String>> Log<'a, O> {
    fn new(train: &'a Group, observe: O) -> Log<'a, O> {
        Log { train, observe, launched: VecDeque::new(), since: Instant::now(), losses: (0.0, 0) }
    }

    fn tell(&mut self, event: Event) -> Result<Go, RunError> {
        (self.observe)(event).map_err(RunError::Observer)
    }

    /// The report of the oldest step under way.
    fn step(&mut self, report: StepReport) -> Result<Go, RunError> {
        let Some(Launched { step, epoch, learning_rate, pairs }) = self.launched.pop_front() else { return Ok(Go::On) };
        let StepReport { loss, gradient_norm } = report;
        if !report.is_finite() {
            return Err(RunError::NotFinite { step, loss, gradient_norm, pairs: self.in_words(&pairs) });
        }
        self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        let milliseconds = self.since.elapsed().as_secs_f64() * 1e3;
        self.since = Instant::now();
        self.tell(Event::Step(&StepRecord { step, epoch, loss, learning_rate, gradient_norm, milliseconds }))
    }

    fn in_words(&self, pairs: &[usize]) -> String {
        let pair = |&i: &usize| format!("{} = {}", self.train.pairs[i].source, self.train.pairs[i].target);
        pairs.iter().map(pair).collect::<Vec<_>>().join("; ")
    }

    /// Of the steps since the last call.
    fn mean_loss(&mut self) -> f32 {
        let (sum, count) = std::mem::take(&mut self.losses);
        sum / count as f32
    }
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
