//! `kiungo train`: the main job, from files to a run's folder.

mod args;
pub(super) mod data;
mod folder;
mod memory;
mod observer;
mod record;
mod signals;

pub use args::{Blocks, SaveEvery, Train};
pub use signals::Interrupted;

use super::common::{self, Compute, DeviceChoice};
use super::importance;
use super::inputs;
use super::model::ModelFiles;
use super::plan;
use crate::device::{DType, Device};
use crate::formats::kiungo_json::Identity;
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::Encoding;
use crate::formats::weights::Options;
use crate::llama::Layer;
use crate::llama::config::Config;
use crate::llama::model::Model;
use crate::retrieval::words::Collapse;
use crate::training::batch::{Group, Translations, largest_pass};
use crate::training::checkpoint::{Found, Whole};
use crate::training::history::History;
use crate::training::learner::{Learner, LoraLearner};
use crate::training::outcome::{Gauge, Summary};
use crate::training::plan::{Plan, blocks_in_words};
use crate::training::run::{self, total_steps};
use crate::training::save;
use crate::training::settings::{Method, Preset, Settings};
use crate::training::step::Trainer;
use crate::training::summary;
use anyhow::{Context, Result, anyhow, bail};
use data::Data;
use folder::RunFolder;
use observer::{Observer, Saving};
use record::RunRecord;
use signals::Signals;
use std::time::Instant;

/// All that is known before weights are read.
struct Prepared {
    sources: data::Sources,
    files: ModelFiles,
    config: Config,
    /// None of random weights.
    checkpoint: Option<Checkpoint>,
    settings: Settings,
    plan: Plan,
    data: Data,
    layers: Vec<Layer>,
    /// Where it has been opened already.
    device: Option<Device>,
}

/// What the steps of a run come to.
struct Trained {
    history: History,
    collapse: Option<Collapse>,
    /// Wall time of training, before a break too.
    seconds: f64,
    /// What stands if what follows fails, and how to go on, in words.
    stands: String,
}

/// Checkpoints that are kept.
const KEEP: u16 = 2;

impl Train {
    pub fn run(self) -> Result<()> {
        let given = self.absolute()?;
        let folder = match &given.keeping.resume {
            Some(folder) => RunFolder::reopen(folder)?,
            None => RunFolder::choose(given.output.as_deref())?,
        };
        if folder.is_finished() {
            println!("{}: this run is finished; nothing is left to do", folder.root().display());
            return Ok(());
        }
        let begun = folder.record()?;
        let (args, changed) = match &begun {
            Some(begun) => record::merge(&given, begun)?,
            None => (given, vec![]),
        };
        let prepared = args.prepare(&folder)?;
        let device = prepared.device.clone().map_or_else(|| args.open_device(), Ok)?;
        let compute = Compute::or_default(args.compute, &device);
        prepared.print(&device, compute);
        let ledger = prepared.ledger(&device, compute);
        if args.dry_run {
            let reads = prepared.checkpoint.as_ref().map(|files| plan::reads(files, prepared.plan.parts));
            reads.into_iter().for_each(|reads| println!("{reads}"));
            println!("{}", plan::table(&ledger, &device));
        }
        plan::fit(&ledger, &device, || prepared.ways(&device, compute))?;
        let now = prepared.record(&args, compute, &device)?;
        if let Some(begun) = &begun {
            begun.check_same_result(&now, &changed, folder.root())?;
        }
        if args.dry_run {
            return Ok(());
        }
        if begun.is_none() {
            folder.begin(&now)?;
        }
        let resumed = args.resumed(&folder)?;
        let model = prepared.load(compute, &device)?;
        args.train(&prepared, model, &folder, resumed)?;
        plan::say_peak(&ledger, &device);
        Ok(())
    }

    /// The newest whole checkpoint, of which it is said that the run goes on from it.
    fn resumed(&self, folder: &RunFolder) -> Result<Option<Whole>> {
        let checkpoints = folder.checkpoints(1);
        checkpoints.remove_temporaries()?;
        folder.remove_results()?;
        let Found { newest, damaged } = checkpoints.newest()?;
        for damage in damaged {
            eprintln!("warning: damaged checkpoint: {damage}; the one before it is taken");
        }
        match &newest {
            Some(whole) => eprintln!("resuming after step {} ({})", whole.progress.step, whole.folder.display()),
            None if self.keeping.resume.is_some() => eprintln!("no checkpoint yet: the run starts at its beginning"),
            None => {}
        }
        Ok(newest)
    }

    fn prepare(&self, folder: &RunFolder) -> Result<Prepared> {
        let sources = data::Sources::resolve(self, folder)?;
        let files = sources.model.open()?;
        let config = files.config.clone();
        let mut settings = self.settings(&config).map_err(anyhow::Error::msg)?;
        if let Some(quantization) = &config.quantization {
            settings.base = sources.quantised_base(quantization, self.base)?;
        }
        let layers = match &self.layers {
            Some(layers) => layers.clone(),
            None if settings.target == Layer::Final => vec![Layer::Final],
            None => vec![settings.target, Layer::Final],
        };
        inputs::check_layers(&layers, &config)?;
        let mut plan = Plan::new(&settings, &config, &layers)?;
        let tokenizer = files.tokenizer(self.tokenizer.as_deref())?;
        let encode = Encoding { tokenizer: &tokenizer, bos: settings.bos, max_length: settings.max_length };
        let mut data = Data::read(&sources, &encode, &settings)?;
        let checkpoint = match settings.method {
            _ if self.dry_run => files.checkpoint_here(plan.parts)?,
            // What does not learn is saved with the rest.
            Method::Full if self.stop_after.is_none() && files.folder().is_some() => Some(files.whole()?),
            _ => files.checkpoint(plan.parts)?,
        };
        let mut device = None;
        if let (Some(Blocks::Cka(count)), Method::Lora) = (&self.blocks, settings.method) {
            let device = device.insert(self.open_device()?);
            let compute = Compute::or_default(self.compute, device);
            let positions = data.longest().min(settings.max_length);
            let options = Options { parts: plan.parts, base: settings.base, compute, device, positions };
            let texts = importance::texts(data.train());
            let chosen = importance::choose(*count, settings.target, &files, checkpoint.as_ref(), options, &texts)?;
            settings.blocks = chosen.blocks;
            data.notes.push(chosen.note);
            plan = Plan::new(&settings, &config, &layers)?;
        }
        Ok(Prepared { sources, files, config, checkpoint, settings, plan, data, layers, device })
    }

    fn open_device(&self) -> Result<Device> {
        Ok(common::open_device(self.device.unwrap_or(DeviceChoice::Auto))?)
    }

    fn train(&self, prepared: &Prepared, mut model: Model, folder: &RunFolder, resumed: Option<Whole>) -> Result<()> {
        let Prepared { settings, plan, data, .. } = prepared;
        let gauge = Gauge::new(&data.groups, &data.questions, prepared.layers.clone(), settings)?;
        let device = model.device.clone();
        let learner = self.learner(prepared, &mut model)?;
        let translations = Translations::new(data.groups.iter().flat_map(|(_, g)| &g.pairs));

        let before = match self.stop_after {
            Some(_) => None,
            None => Some(measure(&gauge, &model, None, "before")?),
        };
        let held = model.bytes();
        let mut trainer = Trainer::with_learner(model, learner, settings, plan, data.train(), translations)?;
        if trainer.model.bytes() > held {
            let blocks: Vec<usize> = (plan.prefix..plan.blocks).collect();
            println!("note: the 4-bit weights of {} are held in bf16, dequantised once", blocks_in_words(&blocks));
        }
        let Trained { history, collapse, seconds, stands } =
            self.steps(prepared, &gauge, &mut trainer, folder, resumed)?;
        let Some(before) = before else { return Ok(()) };

        let hash = trainer.hash()?;
        let Trainer { model, learner, .. } = &trainer;
        // A GPU's memory may be another program's by now; the steps are not lost.
        let after = measure(&gauge, model, learner.adapters(), "after").map_err(|e| anyhow!("{e:#}; {stands}"))?;
        let record = save::record(&prepared.files.to_string(), prepared.identity()?, settings);
        let [adapter, whole_model] = folder::RESULTS.map(|name| folder.path(name));
        match learner {
            Learner::Lora(lora) => save::adapter(&adapter, &lora.adapters, &record, settings)?,
            Learner::Full(_) => match &prepared.checkpoint {
                Some(base) => save::model(&whole_model, model, base, &record)?,
                None => println!("note: weights that were random when training began are not saved"),
            },
        }
        let histograms = gauge.histograms(&before, &after)?;
        let summary = Summary {
            version: env!("CARGO_PKG_VERSION"),
            device: common::device_in_words(&device),
            settings: settings.clone(),
            parameters: plan.parameters,
            steps: history.steps.len(),
            final_loss: history.epochs.last().and_then(|e| e.mean_loss),
            hash,
            training_seconds: seconds,
            collapse,
            words: gauge.compare(&before, &after)?,
            questions_before: before.questions,
            questions_after: after.questions,
            notes: prepared.notes(),
        };
        let report = summary.report(&history, histograms)?;
        folder.finish(&summary, &report)?;
        println!("{}", report.to_text());
        println!("final hash: {}", summary.hash);
        println!("run folder: {}", folder.root().display());
        Ok(())
    }

    fn learner(&self, prepared: &Prepared, model: &mut Model) -> Result<Learner> {
        let Prepared { settings, plan, config, .. } = prepared;
        let Some(init) = &self.init else { return Ok(Learner::new(plan, settings, model)?) };
        if settings.method == Method::Full {
            bail!("--init starts from an adapter, and --method full has none");
        }
        let adapters = inputs::adapters(init, config, &model.device)?;
        Ok(Learner::Lora(LoraLearner::new(adapters, plan, config, &model.device)?))
    }

    fn steps(
        &self,
        prepared: &Prepared,
        gauge: &Gauge,
        trainer: &mut Trainer,
        folder: &RunFolder,
        resumed: Option<Whole>,
    ) -> Result<Trained> {
        let Prepared { settings, data, .. } = prepared;
        let dev = gauge.groups.iter().find(|(name, _)| *name == "dev").map(|(_, probe)| probe);
        let dev = dev.filter(|_| self.stop_after.is_none());
        if let Some(whole) = &resumed {
            whole.restore(trainer)?;
        }
        let past = resumed.as_ref().map(|whole| &whole.progress);
        let (step, skipped) = past.map_or((0, 0), |p| (p.step, p.skipped));
        trainer.skip(self.keeping.skip_nonfinite.unwrap_or(0), skipped)?;
        let (metrics, history) = folder.metrics(past.map_or(0, |p| p.metrics_bytes))?;
        let total = total_steps(data.train().len(), settings);
        let signals = Signals::listen().context("signals")?;
        let mut observer = Observer {
            bar: common::progress(total, "training").with_position(step as u64),
            metrics,
            history: history.clone(),
            settings,
            signals: &signals,
            saving: Saving {
                checkpoints: folder.checkpoints(self.keeping.keep_checkpoints.unwrap_or(KEEP).into()),
                every: self.keeping.save_every.unwrap_or_default(),
                total,
                config: folder.config()?,
                device: common::device_in_words(&trainer.model.device),
                seconds_before: past.map_or(0.0, |p| p.seconds),
                begin: Instant::now(),
                last: Instant::now(),
                newest: resumed.as_ref().map(|whole| whole.folder.clone()),
            },
            skipped,
            stop_after: self.stop_after.unwrap_or(usize::MAX),
        };
        let ended = run::run_from(step, &history, trainer, data.train(), dev, settings, |event| observer.see(event));
        observer.bar.finish_and_clear();
        let stands = || {
            let (checkpoint, folder) = (observer.last_checkpoint(), folder.root().display());
            format!("{checkpoint}; go on with: kiungo train --resume {folder}")
        };
        let collapse = ended.map_err(|error| anyhow!("{error}; {}", stands()))?;
        match signals.interrupted(stands()) {
            Some(interrupted) => Err(interrupted.into()),
            None => {
                let (stands, seconds) = (stands(), observer.saving.seconds());
                Ok(Trained { history: observer.history, collapse, seconds, stands })
            }
        }
    }
}

fn measure(
    gauge: &Gauge,
    model: &Model,
    adapters: Option<&crate::llama::adapters::Adapters>,
    when: &'static str,
) -> Result<crate::training::outcome::Measured> {
    let bar = common::progress(gauge.texts(), when);
    let measured = gauge.measure(model, adapters, |n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    Ok(measured)
}

impl Prepared {
    /// What the program chose, dropped or cut, in words.
    fn notes(&self) -> Vec<String> {
        let mut notes = self.sources.notes.clone();
        notes.extend(self.data.notes.iter().cloned());
        let Prepared { plan, settings, .. } = self;
        if !plan.idle.is_empty() {
            notes.push(format!(
                "The loss reads the state after {} blocks: the adapters in {} get no gradient and stay zero.",
                plan.blocks,
                blocks_in_words(&plan.idle)
            ));
        }
        if settings.preset == Preset::Paper {
            notes.push(
                "Preset `paper`: trained with the first token inside the mean, evaluated without it, as arXiv 2506.15415 does."
                    .into(),
            );
        }
        if settings.method == Method::Full {
            let norm = if plan.final_norm { ", the final norm" } else { "" };
            notes.push(format!(
                "Full training: the loss at {} reaches the embedding{norm} and {}; the rest of the model stays as it is.",
                settings.target,
                blocks_in_words(&plan.learning)
            ));
        }
        notes
    }

    fn print(&self, device: &Device, compute: DType) {
        let Prepared { settings, plan, data, config, layers, .. } = self;
        for note in self.notes() {
            println!("note: {note}");
        }
        let groups: Vec<String> = data.groups.iter().map(|(name, g)| format!("{name} {}", g.len())).collect();
        println!("pairs: {}", groups.join(", "));
        let tokens = largest_pass(data.train(), settings);
        let memory = plan.memory(settings, config, device, compute, tokens, data.train().tokens());
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        println!(
            "plan: {} trains {} parameters for {} steps; reads {} of {} blocks, scores at {}",
            summary::arm(settings),
            indicatif::HumanCount(plan.parameters as u64),
            total_steps(data.train().len(), settings),
            plan.parts.blocks,
            config.layers,
            layers.join(" and ")
        );
        println!(
            "memory: weights {}, gradients and optimizer {}, activations of up to {tokens} tokens {}, prefix {}; {} in all",
            common::bytes(memory.weights),
            common::bytes(memory.learning),
            common::bytes(memory.activations),
            common::bytes(memory.prefix),
            common::bytes(memory.total())
        );
    }

    /// `config.json` of the run.
    fn record(&self, args: &Train, compute: DType, device: &Device) -> Result<RunRecord> {
        Ok(RunRecord {
            kiungo: env!("CARGO_PKG_VERSION").into(),
            device: common::device_in_words(device),
            compute: compute.to_string(),
            model: self.sources.model.clone(),
            identity: self.identity()?,
            settings: serde_json::to_value(&self.settings).context("settings")?,
            layers: self.layers.clone(),
            data: self.sources.checksums()?,
            arguments: args.clone(),
        })
    }

    fn identity(&self) -> Result<Identity> {
        self.files.identity(self.checkpoint.as_ref())
    }

    /// The longest sequence.
    fn positions(&self) -> usize {
        self.data.longest().min(self.settings.max_length)
    }

    fn load(&self, compute: DType, device: &Device) -> Result<Model> {
        let bar = common::progress(1 + self.plan.parts.blocks * 9, "loading");
        let Prepared { files, checkpoint, plan, settings, .. } = self;
        let options = Options { parts: plan.parts, base: settings.base, compute, device, positions: self.positions() };
        let model = files.load(checkpoint.as_ref(), options, |_| bar.inc(1))?;
        bar.finish_and_clear();
        Ok(model)
    }
}

impl Data {
    fn train(&self) -> &Group {
        &self.groups[0].1
    }
}
