//! A whole training run: epochs of steps, with the development pairs watched for collapse.

use super::batch::{Group, epoch_batches};
use super::evaluate::{EvaluateError, Probe};
use super::history::{EpochRecord, History, SkippedRecord, StepRecord};
use super::schedule::Schedule;
use super::settings::Settings;
use super::step::{StepReport, Trainer, Update};
use crate::ops::OpError;
use crate::retrieval::embed::EmbedError;
use crate::retrieval::words::{Collapse, Reading};
use std::collections::VecDeque;
use std::time::Instant;

/// What happens while a run goes on.
pub enum Event<'a> {
    /// So many steps were launched; the last of them are under way. Here the observer may ask for a [`Event::Save`].
    Launched(usize),
    /// A step was taken.
    Step(&'a StepRecord),
    /// A step changed nothing.
    Skipped(&'a SkippedRecord),
    /// An epoch ended (or the run began: epoch 0).
    Epoch(&'a EpochRecord),
    /// The embeddings have just collapsed. Said once.
    Collapsed(Collapse),
    /// The observer asked to save: the trainer's state is that after so many steps, all of them reported.
    Save(usize, &'a mut Trainer),
    /// The same, unasked: the run ends with an error behind this step.
    Rescue(usize, &'a mut Trainer),
}

/// What the observer of a run wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// The next step.
    On,
    /// A save, then the next step.
    Save,
    /// A save, and no more steps.
    SaveAndStop,
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
        "step {step}: the loss is {loss} and the gradient's norm {gradient_norm}; first not finite: {tensor}. The weights {weights}. Pairs of the batch: {pairs}. Lower --lr, set --clip 1, or leave such steps out with --skip-nonfinite N"
    )]
    NotFinite {
        /// From 1.
        step: usize,
        /// The loss.
        loss: f32,
        /// The gradient's norm.
        gradient_norm: f32,
        /// The first tensor of the step that holds a NaN or an infinity.
        tensor: String,
        /// What became of them.
        weights: &'static str,
        /// The batch, in words.
        pairs: String,
    },
    /// What is known of the steps before does not fit the run.
    #[error("the metrics of the steps before lack epoch 0 with its development pairs")]
    Past,
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
    run_from(0, &History::default(), trainer, train, dev, settings, observe)
}

/// The same for a trainer whose state is that after `step` steps, with their history: what follows is, to the bit, what
/// would have followed without the break.
pub fn run_from(
    mut step: usize,
    history: &History,
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
    let mut log = Log::new(train, observe);
    let mut watch = match dev {
        None => None,
        Some(probe) if step == 0 => Some(Watch::start(probe, trainer, settings)?),
        Some(probe) => Some(Watch::again(probe, &history.epochs).ok_or(RunError::Past)?),
    };
    if step == 0 {
        log.tell(Event::Epoch(&epoch_record(0, None, watch.as_ref())))?;
    }
    let steps_an_epoch = train.len().div_ceil(settings.batch).max(1);
    let first_epoch = step / steps_an_epoch;
    // A run that was saved behind the last step of an epoch, because it could not be looked at, begins with that.
    if step.is_multiple_of(steps_an_epoch) && history.epochs.last().is_some_and(|last| last.epoch < first_epoch) {
        log.losses = losses_since(step - steps_an_epoch, history);
        log.end_epoch(first_epoch, step, trainer, watch.as_mut(), settings)?;
    }
    log.losses = losses_since(step - step % steps_an_epoch, history);
    for epoch in first_epoch..settings.epochs {
        let mut next = Go::On;
        for pairs in epoch_batches(train.len(), epoch, settings).into_iter().skip(step % steps_an_epoch) {
            let learning_rate = schedule.rate(step);
            if let Err(error) = trainer.launch(train, &pairs, step as u32, learning_rate) {
                log.rescue(step, trainer);
                return Err(error.into());
            }
            step += 1;
            log.launched.push_back(Launched { step, epoch: epoch + 1, learning_rate, pairs });
            next = log.tell(Event::Launched(step))?;
            // Steps that are done already, and the oldest where there is no room for the next one.
            while let Some(report) = trainer.report_or_room()? {
                if log.step(report, trainer)? == Go::Stop {
                    return Ok(watch.map(|w| w.verdict()));
                }
            }
            // The last step of an epoch is saved with what is found at its end.
            if next != Go::On && !step.is_multiple_of(steps_an_epoch) {
                if log.drain(trainer)? == Go::Stop || log.save(next, step, trainer)? == Go::Stop {
                    return Ok(watch.map(|w| w.verdict()));
                }
                next = Go::On;
            }
        }
        if log.drain(trainer)? == Go::Stop {
            return Ok(watch.map(|w| w.verdict()));
        }
        log.end_epoch(epoch + 1, step, trainer, watch.as_mut(), settings)?;
        if log.save(next, step, trainer)? == Go::Stop {
            break;
        }
        log.since = Instant::now();
    }
    Ok(watch.map(|w| w.verdict()))
}

/// Sum and number of the losses of the steps behind `step`.
fn losses_since(step: usize, history: &History) -> (f32, usize) {
    let losses = history.steps.iter().filter(|s| s.step > step).map(|s| s.loss);
    losses.fold((0.0, 0), |(sum, count), loss| (sum + loss, count + 1))
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
    fn step(&mut self, report: StepReport, trainer: &mut Trainer) -> Result<Go, RunError> {
        let Some(Launched { step, epoch, learning_rate, pairs }) = self.launched.pop_front() else { return Ok(Go::On) };
        let StepReport { loss, gradient_norm, update } = report;
        match update {
            Update::Made => {}
            Update::Skipped => {
                let record = SkippedRecord { skipped: step, epoch, pairs: self.in_words(&pairs) };
                return self.tell(Event::Skipped(&record));
            }
            Update::Stopped => {
                // Those behind it have changed nothing.
                while trainer.wait()?.is_some() {}
                let tensor = trainer.first_not_finite(self.train, &pairs, step as u32 - 1)?;
                self.launched.clear();
                self.rescue(step - 1, trainer);
                let weights = if trainer.is_whole() { "are those before the step" } else { "hold a part of the step" };
                let pairs = self.in_words(&pairs);
                return Err(RunError::NotFinite { step, loss, gradient_norm, tensor, weights, pairs });
            }
        }
        self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        let milliseconds = self.since.elapsed().as_secs_f64() * 1e3;
        self.since = Instant::now();
        self.tell(Event::Step(&StepRecord { step, epoch, loss, learning_rate, gradient_norm, milliseconds }))
    }

    /// The reports of all steps under way.
    fn drain(&mut self, trainer: &mut Trainer) -> Result<Go, RunError> {
        while let Some(report) = trainer.wait()? {
            if self.step(report, trainer)? == Go::Stop {
                return Ok(Go::Stop);
            }
        }
        Ok(Go::On)
    }

    /// Saves if the observer wants it, and says whether to go on.
    fn save(&mut self, wanted: Go, step: usize, trainer: &mut Trainer) -> Result<Go, RunError> {
        match wanted {
            Go::On => return Ok(Go::On),
            Go::Stop => return Ok(Go::Stop),
            Go::Save | Go::SaveAndStop => self.tell(Event::Save(step, trainer))?,
        };
        Ok(if wanted == Go::Save { Go::On } else { Go::Stop })
    }

    /// Looks at the development pairs behind the last step of an epoch, which is saved where they cannot be looked at.
    fn end_epoch(
        &mut self,
        epoch: usize,
        step: usize,
        trainer: &mut Trainer,
        mut watch: Option<&mut Watch>,
        settings: &Settings,
    ) -> Result<(), RunError> {
        let looked = watch.as_mut().map_or(Ok(None), |watch| watch.look(trainer, settings));
        let first_collapse = looked.inspect_err(|error| {
            // Weights of which the model makes no numbers are not worth going on from.
            if !matches!(error, RunError::Evaluate(EvaluateError::Embed(EmbedError::Output { .. }))) {
                self.rescue(step, trainer);
            }
        })?;
        if let Some(collapse) = first_collapse {
            self.tell(Event::Collapsed(collapse))?;
        }
        let mean_loss = self.mean_loss();
        self.tell(Event::Epoch(&epoch_record(epoch, mean_loss, watch.as_deref())))?;
        Ok(())
    }

    /// Saves what is whole, before the run ends with an error that matters more than one of saving.
    fn rescue(&mut self, step: usize, trainer: &mut Trainer) {
        if step > 0 && trainer.is_whole() && matches!(self.drain(trainer), Ok(Go::On)) {
            let _ = self.tell(Event::Rescue(step, trainer));
        }
    }

    fn in_words(&self, pairs: &[usize]) -> String {
        let pair = |&i: &usize| format!("{} = {}", self.train.pairs[i].source, self.train.pairs[i].target);
        pairs.iter().map(pair).collect::<Vec<_>>().join("; ")
    }

    /// Of the steps since the last call, if there were any that count.
    fn mean_loss(&mut self) -> Option<f32> {
        let (sum, count) = std::mem::take(&mut self.losses);
        (count > 0).then(|| sum / count as f32)
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

    /// As it was behind the last of these epochs; None where they are not an earlier part of such a watch.
    fn again(probe: &'a Probe<'a>, epochs: &[EpochRecord]) -> Option<Watch<'a>> {
        let reading = |epoch: &EpochRecord| {
            Some(Reading { shuffled_cosine: epoch.dev_shuffled_cosine?, precision_at_1: epoch.dev_precision_at_1? })
        };
        let (first, last) = (epochs.first().filter(|e| e.epoch == 0)?, epochs.last()?);
        Some(Watch {
            probe,
            start: reading(first)?,
            now: reading(last)?,
            pair_cosine: last.dev_cosine?,
            warned: epochs.iter().any(|e| e.collapsed),
        })
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
