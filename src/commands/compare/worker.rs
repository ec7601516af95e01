//! A thread of a comparison: trains and measures one model after another, on a device of its own.

use super::folder::{Importance, read_json};
use super::lab::Lab;
use crate::commands::{common, eval, importance};
use crate::device::Device;
use crate::formats::output::{self, NewFile};
use crate::llama::adapters::Adapters;
use crate::llama::model::{Base, Model};
use crate::llama::plan::weight_bytes;
use crate::llama::{Layer, Parts};
use crate::ops::pooling::Pooling;
use crate::retrieval::embed::Reading;
use crate::retrieval::ranks;
use crate::retrieval::scores::Metric;
use crate::retrieval::views::{Judged, Treatment, Views, judge, views};
use crate::training::arms::Arm;
use crate::training::batch::{Translations, largest_batch};
use crate::training::evaluate::Probe;
use crate::training::findings::{Matrix, Run, Words};
use crate::training::perplexity::perplexity;
use crate::training::plan::Plan;
use crate::training::run::{self, Event, RunError};
use crate::training::settings::Settings;
use crate::training::step::Trainer;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

const POOLING: Pooling = Pooling::MeanNoSink;
const TREATMENTS: [Treatment; 3] = [Treatment::Plain, Treatment::Centred, Treatment::CrossFitted];

/// The layers that arms aim at.
const TARGETS: [Layer; 2] = [Layer::Hidden(2), Layer::Final];

/// Has the workers do all of it, each taking what comes next. After an error nothing more is begun.
pub fn each<'a, T: Sync>(
    workers: &mut [Worker<'a>],
    items: &[T],
    work: impl Fn(&mut Worker<'a>, &T) -> Result<()> + Sync,
) -> Result<()> {
    if let [worker] = workers {
        return items.iter().try_for_each(|item| work(worker, item));
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let shift = |worker: &mut Worker<'a>| {
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            work(worker, item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| shift(worker))).collect();
        let ends: Vec<Result<()>> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
        ends.into_iter().collect()
    })
}

/// A device, and models that are there already.
pub struct Worker<'a> {
    lab: &'a Lab,
    device: Device,
    /// The last one that only adapters learned beside.
    idle: Option<Loaded>,
    /// All of the base, for perplexity after training a part of it.
    whole: Option<Loaded>,
}

struct Loaded {
    base: Base,
    parts: Parts,
    model: Model,
    /// That it takes on the device, where those are counted.
    bytes: usize,
}

impl<'a> Worker<'a> {
    pub fn new(lab: &'a Lab) -> Result<Worker<'a>> {
        let device = match &lab.device {
            Device::Cuda(_) if lab.args.jobs > 1 => Device::cuda_pooled(0)?,
            other => other.clone(),
        };
        Ok(Worker { lab, device, idle: None, whole: None })
    }

    /// Of an arm, with the blocks that the model chooses.
    pub fn settings(&mut self, arm: Arm) -> Result<Settings> {
        let mut settings = self.lab.settings(arm);
        if let Arm::Cka(count) = arm {
            let layers = self.lab.config.layers;
            ensure!(count <= layers, "--arms {arm}: the model has {layers} blocks");
            settings.blocks = self.importance(settings.base)?.chosen(count);
        }
        Ok(settings)
    }

    /// How much each block changes the pairs to learn from, measured once.
    fn importance(&mut self, base: Base) -> Result<Importance> {
        let path = self.lab.folder.path("importance.json");
        if path.exists() {
            return read_json(&path);
        }
        let loaded = self.take(base, Parts { head: false, ..self.lab.whole() })?;
        let texts = importance::texts(self.lab.train());
        let blocks = importance::of(&loaded.model, &texts, Layer::Final, self.lab.config.layers)?;
        let importance = Importance { texts: texts.len(), blocks };
        output::write_file(&path, serde_json::to_string(&importance)?)?;
        self.idle = Some(loaded);
        Ok(importance)
    }

    fn held(&self) -> usize {
        common::memory(&self.device).map_or(0, |memory| memory.held)
    }

    /// The base model, or a part of it.
    fn take(&mut self, base: Base, parts: Parts) -> Result<Loaded> {
        if let Some(loaded) = self.idle.take().filter(|idle| (idle.base, idle.parts) == (base, parts)) {
            return Ok(loaded);
        }
        let before = self.held();
        let model = self.lab.load(&self.device, base, parts)?;
        Ok(Loaded { base, parts, model, bytes: self.held().saturating_sub(before) })
    }

    /// The words of a group by layer.
    fn words(
        &self,
        group: usize,
        model: &Model,
        adapters: Option<&Adapters>,
        layers: &[Layer],
    ) -> Result<BTreeMap<String, Words>> {
        let groups = &self.lab.data.groups;
        let all: Vec<_> = groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let probe = Probe::new(&groups[group].1, &all, POOLING)?;
        let measured = probe.measure(model, adapters, layers)?;
        Ok(layers.iter().zip(&measured).map(|(layer, a)| (layer.to_string(), Words::of(a))).collect())
    }

    /// The untrained model, with what needs no training, at every layer or at those whose ranks are kept: the embedding's output
    /// and those that arms aim at.
    pub fn base(&mut self, base: Base, every_layer: bool) -> Result<()> {
        let name = format!("base-{base}");
        if self.lab.is_finished(&name) {
            return Ok(());
        }
        let (lab, whole) = (self.lab, self.lab.whole());
        let loaded = self.take(base, whole)?;
        let model = &loaded.model;
        let all = lab.layers();
        let targets: Vec<Layer> = TARGETS.into_iter().filter(|target| all.contains(target)).collect();
        let kept = [&[Layer::Hidden(0)], &targets[..]].concat();
        let layers = if every_layer { all } else { kept.clone() };
        let run = Run {
            seed: 0,
            learning_rate: None,
            parameters: 0,
            steps: 0,
            final_loss: None,
            seconds: 0.0,
            memory: weight_bytes(&lab.config, whole, base),
            collapsed: false,
            peak: None,
            losses: vec![],
            matrices: BTreeMap::new(),
            dev: self.words(1, model, None, &layers)?,
            control: self.words(2, model, None, &layers)?,
            perplexity: perplexity_of(lab, model, None)?,
            by_layer: BTreeMap::new(),
        };
        let maps = eval::maps(model, None, lab.train(), &readings(&targets))?;
        let treatments = [&TREATMENTS[..], &[Treatment::Procrustes, Treatment::Ridge, Treatment::Bm25]].concat();
        self.measure(&name, run, model, None, Scored { layers, kept, targets, treatments, maps })?;
        self.idle = Some(loaded);
        Ok(())
    }

    /// Scores all data sets and writes what was found.
    fn measure(
        &self,
        name: &str,
        mut run: Run,
        model: &Model,
        adapters: Option<&Adapters>,
        scored: Scored,
    ) -> Result<()> {
        let folder = self.lab.folder.path(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut out = NewFile::create(&folder.join("ranks.tsv"))?;
        out.write_all(ranks::HEADER.as_bytes())?;
        let bar = self.progress(self.lab.sets.iter().map(|(q, _)| q.texts()).sum(), "scoring");
        for (i, (questions, views_here)) in self.lab.sets.iter().enumerate() {
            let collection = &questions.collection;
            let vectors = questions.embed(model, adapters, &readings(&scored.layers), |n| bar.inc(n as u64))?;
            // On the host: products this small take a GPU longer to be given than to do.
            let judged = judge(&Device::Cpu, collection, &vectors, views_here, &scored.treatments, &scored.maps)?;
            if i == 0 && scored.layers.len() > scored.kept.len() {
                run.by_layer = by_layer(&judged);
            }
            if i == 0 {
                let all = views(collection, Views::Matrix);
                let vectors = vectors.only(&readings(&scored.targets));
                let plain = judge(&Device::Cpu, collection, &vectors, &all, &[Treatment::Plain], &HashMap::new())?;
                run.matrices = matrices(&plain);
            }
            let is_kept = |j: &Judged| j.reading.is_none_or(|r| scored.kept.contains(&r.layer));
            let judged: Vec<Judged> = judged.into_iter().filter(is_kept).collect();
            ranks::write(collection, &judged, &mut out)?;
        }
        bar.finish_and_clear();
        out.commit()?;
        // Last: a folder with this file is complete.
        Ok(output::write_file(&folder.join("run.json"), serde_json::to_string(&run)?)?)
    }

    /// Trains an arm at one of the rates to choose from, unless there is no choice, and notes how well the development pairs
    /// find each other then: their mean reciprocal rank.
    pub fn try_rate(&mut self, arm: Arm, settings: &Settings) -> Result<()> {
        let (folder, rate) = (&self.lab.folder, settings.learning_rate);
        if self.lab.args.rates.len() == 1 || folder.rate(arm, rate)?.is_some() {
            return Ok(());
        }
        let found = match not_finite(self.learn(arm, settings), rate)? {
            Ok(trained) => {
                let (model, adapters) = (&trained.trainer.model, trained.trainer.learner.adapters());
                let words = self.words(1, model, adapters, &[settings.target])?;
                let found = words.values().map(Words::reciprocal_rank).sum();
                println!("{arm}, rate {rate:e}: dev MRR {found:.3}, {:.1} s", trained.seconds);
                self.keep(trained);
                found
            }
            // A model of such weights finds nothing.
            Err(diverged) => {
                println!("{arm}, rate {rate:e}: {}", diverged.short());
                0.0
            }
        };
        folder.tried(arm, rate, found)
    }

    /// One seed of an arm, trained and measured unless it is there, or has been seen to diverge.
    pub fn seed(&mut self, arm: Arm, settings: &Settings) -> Result<()> {
        let (lab, seed, rate) = (self.lab, settings.seed, settings.learning_rate);
        let name = format!("{arm}/seed-{seed}");
        if lab.is_finished(&name) || lab.folder.diverged(&name)?.is_some() {
            return Ok(());
        }
        let mut trained = match not_finite(self.learn(arm, settings), rate)? {
            Ok(trained) => trained,
            Err(diverged) => {
                println!("{arm}, seed {seed}: {}", diverged.short());
                return lab.folder.diverge(&name, &diverged.short());
            }
        };
        let target = vec![settings.target];
        let perplexity = self.perplexity(&mut trained)?;
        let (model, adapters) = (&trained.trainer.model, trained.trainer.learner.adapters());
        let run = Run {
            seed,
            learning_rate: Some(rate),
            parameters: trained.plan.parameters,
            steps: trained.losses.len(),
            final_loss: trained.final_loss,
            seconds: trained.seconds,
            memory: trained.memory,
            collapsed: trained.collapsed,
            peak: trained.peak,
            losses: std::mem::take(&mut trained.losses),
            matrices: BTreeMap::new(),
            dev: self.words(1, model, adapters, &target)?,
            control: self.words(2, model, adapters, &target)?,
            perplexity,
            by_layer: BTreeMap::new(),
        };
        let (layers, kept, targets) = (target.clone(), target.clone(), target);
        let scored = Scored { layers, kept, targets, treatments: TREATMENTS.to_vec(), maps: HashMap::new() };
        self.measure(&name, run, model, adapters, scored)?;
        println!("{arm}, seed {seed}: loss {:.3}, {:.1} s", trained.final_loss.unwrap_or(f32::NAN), trained.seconds);
        self.keep(trained);
        Ok(())
    }

    /// What the next training can begin from: adapters leave the base as it was, and steps on a 4-bit one may have spread it out.
    fn keep(&mut self, trained: Trained) {
        let Trained { trainer, base, parts, bytes, .. } = trained;
        if trainer.learner.adapters().is_some() && !base.is_quantised() {
            self.idle = Some(Loaded { base, parts, model: trainer.model, bytes });
        }
    }

    /// Of the text, by the whole model with what has learned in its place.
    fn perplexity(&mut self, trained: &mut Trained) -> Result<Option<f64>> {
        let (lab, base, parts) = (self.lab, trained.base, self.lab.whole());
        let Trainer { model, learner, .. } = &mut trained.trainer;
        if lab.text.is_empty() || trained.parts == parts {
            return perplexity_of(lab, model, learner.adapters());
        }
        if self.whole.as_ref().is_none_or(|whole| whole.base != base) {
            self.whole = None;
            let model = lab.load(&self.device, base, parts)?;
            self.whole = Some(Loaded { base, parts, model, bytes: 0 });
        }
        let whole = &mut self.whole.as_mut().context("the whole model was just read")?.model;
        exchange(whole, model);
        let found = perplexity_of(lab, whole, learner.adapters());
        exchange(whole, model);
        found
    }

    fn learn(&mut self, arm: Arm, settings: &Settings) -> Result<Trained> {
        let lab = self.lab;
        let train = arm.group(lab.train());
        let plan = Plan::new(settings, &lab.config, &[settings.target])?;
        // Where all blocks are there anyway, the text can be predicted without reading them again.
        let parts = if plan.parts.blocks == lab.config.layers { lab.whole() } else { plan.parts };
        let Loaded { base, model, bytes, .. } = self.take(settings.base, parts)?;
        let aside = self.held().saturating_sub(bytes);
        common::forget_peak(&self.device);
        let others = lab.data.groups[1..].iter().flat_map(|(_, g)| &g.pairs);
        let translations = Translations::new(train.pairs.iter().chain(others));
        let mut trainer = Trainer::new(model, settings, &plan, &train, translations)?;
        let all: Vec<_> = lab.data.groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let dev = Probe::new(&lab.data.groups[1].1, &all, POOLING)?;
        let bar = self.progress(run::total_steps(train.len(), settings), "training");
        let (mut losses, mut final_loss) = (vec![], None);
        let begin = Instant::now();
        let collapse = run::run(&mut trainer, &train, Some(&dev), settings, |event| {
            match event {
                Event::Step(step) => {
                    bar.inc(1);
                    losses.push(step.loss);
                }
                Event::Epoch(epoch) => final_loss = epoch.mean_loss,
                _ => {}
            }
            Ok(run::Go::On)
        })?;
        bar.finish_and_clear();
        let tokens = largest_batch(&train, settings.batch);
        Ok(Trained {
            seconds: begin.elapsed().as_secs_f64(),
            peak: common::memory(&self.device).map(|memory| memory.peak.saturating_sub(aside)),
            memory: plan.memory(settings, &lab.config, &self.device, lab.compute, tokens, train.tokens()).total(),
            collapsed: collapse.is_some_and(|c| c.collapsed),
            trainer,
            plan,
            losses,
            final_loss,
            base,
            parts,
            bytes,
        })
    }

    /// A bar, unless several would draw over each other.
    fn progress(&self, length: usize, what: &'static str) -> ProgressBar {
        if self.lab.args.jobs > 1 { ProgressBar::hidden() } else { common::progress(length, what) }
    }
}

fn perplexity_of(lab: &Lab, model: &Model, adapters: Option<&Adapters>) -> Result<Option<f64>> {
    let texts: Vec<&[u32]> = lab.text.iter().map(Vec::as_slice).collect();
    Ok(if texts.is_empty() { None } else { Some(perplexity(model, adapters, &texts)?) })
}

/// Exchanges the parts that both have below the final norm.
fn exchange(whole: &mut Model, part: &mut Model) {
    std::mem::swap(&mut whole.embedding, &mut part.embedding);
    let blocks = part.blocks.len();
    whole.blocks[..blocks].swap_with_slice(&mut part.blocks);
}

/// A training that ended because its loss or gradient is not finite: a result, as one that learns nothing is.
struct Diverged {
    step: usize,
    learning_rate: f64,
}

impl Diverged {
    fn short(&self) -> String {
        format!("diverged at step {} (learning rate {:e})", self.step, self.learning_rate)
    }
}

/// Tells a training that diverged from one that failed.
fn not_finite(learned: Result<Trained>, learning_rate: f64) -> Result<Result<Trained, Diverged>> {
    match learned {
        Ok(trained) => Ok(Ok(trained)),
        Err(error) => match error.downcast_ref() {
            Some(&RunError::NotFinite { step, .. }) => Ok(Err(Diverged { step, learning_rate })),
            _ => Err(error),
        },
    }
}

/// A model that has learned, and what that took.
struct Trained {
    trainer: Trainer,
    plan: Plan,
    losses: Vec<f32>,
    peak: Option<usize>,
    final_loss: Option<f32>,
    seconds: f64,
    memory: usize,
    collapsed: bool,
    /// What the model was before, and the bytes that it took then.
    base: Base,
    parts: Parts,
    bytes: usize,
}

/// What is scored of a model.
struct Scored {
    layers: Vec<Layer>,
    /// Those of which every question's ranks are kept.
    kept: Vec<Layer>,
    /// Those of which all languages are scored among each other.
    targets: Vec<Layer>,
    treatments: Vec<Treatment>,
    maps: eval::Maps,
}

fn readings(layers: &[Layer]) -> Vec<Reading> {
    layers.iter().map(|&layer| Reading { layer, pooling: POOLING }).collect()
}

/// Mean accuracy@1 over English passages at each layer, by what was done to the vectors.
fn by_layer(judged: &[Judged]) -> BTreeMap<String, Vec<(String, f64)>> {
    let mut sums: BTreeMap<(String, Layer), (f64, f64)> = BTreeMap::new();
    for j in judged.iter().filter(|j| j.view.family == Views::English && !j.within && !j.view.passages.contains('+')) {
        let Some(reading) = j.reading else { continue };
        let sum = sums.entry((j.treatment.to_string(), reading.layer)).or_default();
        sum.0 += j.scores.mean(Metric::ACCURACY);
        sum.1 += 1.0;
    }
    let mut all: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    for ((treatment, layer), (sum, n)) in sums {
        all.entry(treatment).or_default().push((layer.to_string(), sum / n));
    }
    all
}

/// Accuracy@1 of all languages among each other at each layer.
fn matrices(judged: &[Judged]) -> BTreeMap<String, Matrix> {
    let mut layers: Vec<Layer> = judged.iter().filter_map(|j| j.reading).map(|r| r.layer).collect();
    layers.dedup();
    let matrix = |layer: Layer| {
        let here = judged.iter().filter(|j| !j.within && j.reading.is_some_and(|r| r.layer == layer));
        Matrix::of(here.map(|j| (&*j.view.questions, &*j.view.passages, j.scores.mean(Metric::ACCURACY))))
    };
    layers.into_iter().map(|layer| (layer.to_string(), matrix(layer))).collect()
}
