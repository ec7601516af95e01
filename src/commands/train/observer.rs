//! What happens beside the steps of a run: its progress on the terminal, its metrics, its checkpoints, its end by a signal.

use super::args::SaveEvery;
use super::folder::Metrics;
use super::signals::Signals;
use crate::training::checkpoint::{Checkpoints, Progress};
use crate::training::history::History;
use crate::training::run::{Event, Go};
use crate::training::settings::Settings;
use crate::training::step::Trainer;
use crate::training::unmoved;
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Watches a run.
pub struct Observer<'a> {
    pub bar: ProgressBar,
    pub metrics: Metrics,
    pub history: History,
    pub settings: &'a Settings,
    pub signals: &'a Signals,
    pub saving: Saving,
    /// Steps that changed nothing so far.
    pub skipped: u32,
    /// After which no more are taken, without a save.
    pub stop_after: usize,
}

/// When and where checkpoints are saved.
pub struct Saving {
    pub checkpoints: Checkpoints,
    pub every: SaveEvery,
    /// Steps of the run.
    pub total: usize,
    /// The text of the run's configuration.
    pub config: String,
    /// The device, in words.
    pub device: String,
    /// Training behind the checkpoint that the run goes on from, seconds.
    pub seconds_before: f64,
    pub begin: Instant,
    pub last: Instant,
    pub newest: Option<PathBuf>,
}

impl Saving {
    /// Wall time of training so far, seconds.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.begin.elapsed().as_secs_f64()
    }

    fn is_due(&self, step: usize) -> bool {
        match self.every {
            SaveEvery::Off => false,
            // What follows the last step takes its time, too.
            _ if step == self.total => true,
            SaveEvery::Steps(n) => step.is_multiple_of(n),
            SaveEvery::Minutes(minutes) => self.last.elapsed() >= Duration::from_secs_f64(60.0 * minutes),
        }
    }
}

impl Observer<'_> {
    /// Sees an event.
    pub fn see(&mut self, event: Event) -> Result<Go, String> {
        match event {
            Event::Launched(_) if self.signals.came() => {
                return Ok(if self.saving.every == SaveEvery::Off { Go::Stop } else { Go::SaveAndStop });
            }
            Event::Launched(step) if self.saving.is_due(step) => return Ok(Go::Save),
            Event::Launched(_) => {}
            Event::Step(step) => {
                self.bar.inc(1);
                self.bar.set_message(format!("loss {:.4}", step.loss));
                self.metrics.line(step)?;
                self.history.steps.push(step.clone());
                if self.history.steps.len() == unmoved::STEPS {
                    self.warn(unmoved::explain(&self.history.steps, self.settings));
                }
                return Ok(if step.step >= self.stop_after { Go::Stop } else { Go::On });
            }
            Event::Skipped(step) => {
                self.bar.inc(1);
                self.skipped += 1;
                self.metrics.line(step)?;
                let words = format!(
                    "step {} was left out: its loss or gradient is not finite. Pairs: {}",
                    step.skipped, step.pairs
                );
                self.warn(Some(words));
            }
            Event::Epoch(epoch) => {
                self.metrics.line(epoch)?;
                self.history.epochs.push(epoch.clone());
            }
            Event::Collapsed(collapse) => self.warn(Some(collapse.explanation())),
            Event::Save(step, trainer) => self.save(step, trainer)?,
            Event::Rescue(step, trainer) => {
                if self.saving.every != SaveEvery::Off
                    && let Err(why) = self.save(step, trainer)
                {
                    self.warn(Some(why));
                }
            }
        }
        Ok(Go::On)
    }

    fn save(&mut self, step: usize, trainer: &mut Trainer) -> Result<(), String> {
        let Saving { checkpoints, config, device, .. } = &self.saving;
        let progress = Progress {
            step,
            skipped: self.skipped,
            metrics_bytes: self.metrics.sync()?,
            seconds: self.saving.seconds(),
            device: device.clone(),
        };
        let saved = checkpoints.save(trainer, &progress, config);
        self.saving.newest = Some(saved.map_err(|e| format!("step {step} could not be saved: {e}"))?);
        self.saving.last = Instant::now();
        Ok(())
    }

    fn warn(&self, words: Option<String>) {
        if let Some(words) = words {
            self.bar.suspend(|| eprintln!("warning: {words}"));
        }
    }

    /// What stands when a run ends with an error.
    pub fn last_checkpoint(&self) -> String {
        match &self.saving.newest {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint".into(),
        }
    }
}
