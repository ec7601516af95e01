//! `kiungo compare`: ways of training beside each other, over several seeds, and what follows.

mod folder;

pub use folder::Folder;

use super::common::{self, Compute, DeviceChoice};
use super::importance;
use super::model::Source;
use super::train::data::{Data, Sources};
use super::{eval, inputs};
use crate::device::{DType, Device};
use crate::formats::output::{self, NewFile};
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Encoding};
use crate::formats::weights::{Options, load};
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::llama::model::{Base, Model};
use crate::llama::plan::weight_bytes;
use crate::llama::{Layer, Parts};
use crate::ops::pooling::Pooling;
use crate::retrieval::embed::Reading;
use crate::retrieval::questions::Questions;
use crate::retrieval::ranks;
use crate::retrieval::scores::Metric;
use crate::retrieval::views::{Judged, Treatment, View, Views, judge, views};
use crate::training::arms::Arm;
use crate::training::batch::{Group, Translations, largest_batch};
use crate::training::evaluate::Probe;
use crate::training::findings::{Matrix, Run, Words};
use crate::training::learner::Learner;
use crate::training::perplexity::perplexity;
use crate::training::plan::Plan;
use crate::training::run::{self, Event, RunError};
use crate::training::settings::Settings;
use crate::training::step::Trainer;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use folder::{Asked, Importance, read_json};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Set ways of training beside each other over several seeds, and say which retrieves better and how sure that is
///
/// Every arm learns from the same pairs, in the same order and as often, from the same base; its learning rate is chosen on
/// the development pairs, from as many rates as any other's. A comparison that was interrupted goes on where it stopped when
/// the same command is given again.
#[derive(Args)]
pub struct Compare {
    /// Folder of a Llama in Hugging Face's layout, or its name on the hub (org/name, org/name@revision)
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// Pairs to learn from: .tsv, .csv or .jsonl, source then target
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Pairs to choose learning rates by [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    /// Pairs to read once, at the end [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// A data set to score (see eval); may be given several times. The primary endpoint is on the first
    #[arg(long, alias = "xquad", value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    /// Languages to score, in the data sets that have them [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    languages: Option<Vec<String>>,
    /// A data set whose English passages make the search harder, as a setting of its own
    #[arg(long, value_name = "PATH")]
    distractors: Option<PathBuf>,
    /// lora@2, full-blocks@2, full@2, lora-all@final, lora-early@final, full@final; and paper, shuffled, lora-nf4@2 and
    /// cka:N, adapters in the N blocks that change most [default: the first six]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    arms: Option<Vec<Arm>>,
    /// Seeds, from 0
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Learning rates to try, as multiples of the preset's
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0.1,0.3,1,3,10,30")]
    rates: Vec<f64>,
    /// Times that each pair is seen [20; paper: 5]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Pairs a step [64; paper: 8]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How the weights of all arms but lora-nf4@2 are held: bf16 or f32
    #[arg(long, value_name = "NAME", default_value_t = Base::Bf16)]
    base: Base,
    /// Longest text, tokens [the model's own]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// A text, in lines, whose perplexity shows what is forgotten
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Folder of the comparison
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    output: PathBuf,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    compute: Option<Compute>,
}

const POOLING: Pooling = Pooling::MeanNoSink;
const TREATMENTS: [Treatment; 3] = [Treatment::Plain, Treatment::Centred, Treatment::CrossFitted];

/// What all runs share.
struct Lab {
    folder: Folder,
    args: Compare,
    config: Config,
    checkpoint: Checkpoint,
    device: Device,
    compute: DType,
    data: Data,
    sets: Vec<(Questions, Vec<View>)>,
    text: Vec<Vec<u32>>,
    positions: usize,
    checksums: BTreeMap<String, String>,
}

impl Compare {
    pub fn run(self) -> Result<()> {
        ensure!(self.seeds > 0, "--seeds 0: at least one is needed");
        ensure!(
            !self.rates.is_empty() && self.rates.iter().all(|r| r.is_finite() && *r > 0.0),
            "--rates: expected numbers above 0"
        );
        let names = self.arms.clone().unwrap_or_else(|| Arm::USUAL.to_vec());
        let lab = Lab::open(self)?;
        let mut notes = lab.data.notes.clone();
        for (set, _) in &lab.sets {
            notes.extend(set.collection.notes.iter().cloned());
            notes.extend(set.cuts(lab.max_length()));
        }
        notes.iter().for_each(|note| println!("note: {note}"));
        lab.folder.begin(&lab.record()?)?;
        let asked = Asked {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            arms: names.clone(),
            seeds: lab.args.seeds,
            data: lab.sets[0].0.collection.name.clone(),
            notes,
        };
        output::write_file(&lab.folder.path("asked.json"), serde_json::to_string_pretty(&asked)?)?;

        let settings = names.iter().map(|&arm| Ok((arm, lab.settings(arm)?)));
        let settings: Vec<(Arm, Settings)> = settings.collect::<Result<_>>()?;
        for (_, s) in &settings {
            lab.base(s.base, &settings)?;
        }
        for (arm, settings) in &settings {
            let rate = lab.choose_rate(*arm, settings)?;
            for seed in 0..lab.args.seeds {
                lab.seed(*arm, settings, rate, seed)?;
            }
        }
        let report = lab.folder.conclude()?;
        println!("{}\nfolder: {}", report.to_text(), lab.folder.0.display());
        Ok(())
    }

    /// What decides the results: a folder goes on only with the same.
    fn record(&self, device: &Device) -> Result<Value> {
        let path = |p: &PathBuf| p.display().to_string();
        let optional = |p: &Option<PathBuf>| p.as_ref().map(path);
        Ok(json!({
            "kiungo": env!("CARGO_PKG_VERSION"),
            "device": common::device_in_words(device),
            "model": self.model.to_string(),
            "pairs": path(&self.pairs), "dev": optional(&self.dev), "control": optional(&self.control),
            "data": self.data.iter().map(path).collect::<Vec<_>>(),
            "languages": self.languages, "distractors": optional(&self.distractors), "text": optional(&self.text),
            "rates": self.rates, "epochs": self.epochs, "batch": self.batch,
            "base": self.base.to_string(), "max_length": self.max_length,
        }))
    }
}

impl Lab {
    fn open(args: Compare) -> Result<Lab> {
        let files = args.model.open()?;
        let (config, tokenizer) = (files.config.clone(), files.tokenizer(None)?);
        let max_length = args.max_length.unwrap_or(config.max_positions);
        let encode = Encoding { tokenizer: &tokenizer, bos: Bos::Add, max_length };
        let sources = Sources::named(&args.model, &args.pairs, args.dev.as_deref(), args.control.as_deref());
        let mut settings = Arm::Lora2.settings(&config);
        settings.batch = args.batch.unwrap_or(settings.batch);
        let data = Data::read(&sources, &encode, &settings)?;
        let [_, dev, control] = &data.groups[..] else { bail!("three groups of pairs are needed") };
        for (name, group) in [dev, control] {
            ensure!(!group.is_empty(), "no {name} pairs: give both --dev and --control, or neither");
        }
        let mut collections = inputs::collections(&args.data, args.languages.as_deref())?;
        if let Some(path) = &args.distractors {
            for other in inputs::collections(std::slice::from_ref(path), None)? {
                collections.iter_mut().for_each(|c| _ = c.add_distractors(&other));
            }
        }
        let set = |collection| {
            let questions = Questions::new(collection, &encode)?;
            let views = [Views::English, Views::Own].iter().flat_map(|&f| views(&questions.collection, f)).collect();
            Ok((questions, views))
        };
        let sets = collections.into_iter().map(set).collect::<Result<Vec<(Questions, Vec<View>)>>>()?;
        let text = match &args.text {
            None => vec![],
            Some(path) => inputs::lines(path, &encode, usize::MAX)?,
        };
        let longest =
            sets.iter().map(|(q, _)| q.longest()).chain(text.iter().map(Vec::len)).chain([data.longest()]).max();
        let device = common::open_device(args.device)?;
        Ok(Lab {
            compute: Compute::or_default(args.compute, &device),
            checkpoint: files.whole()?,
            positions: longest.unwrap_or(1),
            checksums: sources.checksums()?,
            folder: Folder(args.output.clone()),
            args,
            config,
            device,
            data,
            sets,
            text,
        })
    }

    fn max_length(&self) -> usize {
        self.args.max_length.unwrap_or(self.config.max_positions)
    }

    /// What decides the results, with the checksums of all that is read.
    fn record(&self) -> Result<Value> {
        let mut record = self.args.record(&self.device)?;
        record["checksums"] = json!(self.checksums);
        let texts = self.sets.iter().map(|(set, _)| (set.collection.name.clone(), set.collection.identity()));
        record["texts"] = json!(texts.collect::<BTreeMap<_, _>>());
        record["weights"] = json!(self.checkpoint.identity()?);
        Ok(record)
    }

    fn settings(&self, arm: Arm) -> Result<Settings> {
        let mut settings = arm.settings(&self.config);
        settings.base = arm.base(self.args.base);
        if arm != Arm::Paper {
            settings.epochs = self.args.epochs.unwrap_or(settings.epochs);
            settings.batch = self.args.batch.unwrap_or(settings.batch);
        }
        settings.max_length = self.max_length();
        if let Arm::Cka(count) = arm {
            ensure!(count <= self.config.layers, "--arms {arm}: the model has {} blocks", self.config.layers);
            settings.blocks = self.importance(settings.base)?.chosen(count);
        }
        Ok(settings)
    }

    /// How much each block changes the pairs to learn from, measured once.
    fn importance(&self, base: Base) -> Result<Importance> {
        let path = self.folder.path("importance.json");
        if path.exists() {
            return read_json(&path);
        }
        let model = self.load(base, Parts { head: false, ..self.whole() })?;
        let texts = importance::texts(self.train());
        let blocks = importance::of(&model, &texts, Layer::Final, self.config.layers)?;
        let importance = Importance { texts: texts.len(), blocks };
        output::write_file(&path, serde_json::to_string(&importance)?)?;
        Ok(importance)
    }

    fn train(&self) -> &Group {
        &self.data.groups[0].1
    }

    /// The words of a group by layer.
    fn words(
        &self,
        group: usize,
        model: &Model,
        adapters: Option<&Adapters>,
        layers: &[Layer],
    ) -> Result<BTreeMap<String, Words>> {
        let all: Vec<_> = self.data.groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let probe = Probe::new(&self.data.groups[group].1, &all, POOLING)?;
        let measured = probe.measure(model, adapters, layers)?;
        Ok(layers.iter().zip(&measured).map(|(layer, a)| (layer.to_string(), Words::of(a))).collect())
    }

    fn load(&self, base: Base, parts: Parts) -> Result<Model> {
        let options = Options { parts, base, compute: self.compute, device: &self.device, positions: self.positions };
        Ok(load(&self.checkpoint, &self.config, options, |_| {})?)
    }

    fn whole(&self) -> Parts {
        Parts { blocks: self.config.layers, final_norm: true, head: !self.text.is_empty() }
    }

    /// The untrained model at every layer, with what needs no training; ranks are kept of the embedding's output and of the
    /// layers that an arm aims at.
    fn base(&self, base: Base, arms: &[(Arm, Settings)]) -> Result<()> {
        let name = format!("base-{base}");
        if self.is_finished(&name) {
            return Ok(());
        }
        let model = self.load(base, self.whole())?;
        let layers: Vec<Layer> = (0..=self.config.layers).map(Layer::Hidden).chain([Layer::Final]).collect();
        let mut targets: Vec<Layer> = arms.iter().map(|(_, s)| s.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let maps = eval::maps(&model, None, self.train(), &readings(&targets))?;
        let run = Run {
            seed: 0,
            learning_rate: None,
            parameters: 0,
            steps: 0,
            final_loss: None,
            seconds: 0.0,
            memory: weight_bytes(&self.config, self.whole(), base),
            collapsed: false,
            peak: None,
            losses: vec![],
            matrices: BTreeMap::new(),
            dev: self.words(1, &model, None, &layers)?,
            control: self.words(2, &model, None, &layers)?,
            perplexity: self.perplexity(&model, None)?,
            by_layer: BTreeMap::new(),
        };
        let kept = [&[Layer::Hidden(0)], &targets[..]].concat();
        let treatments = [&TREATMENTS[..], &[Treatment::Procrustes, Treatment::Ridge, Treatment::Bm25]].concat();
        self.measure(&name, run, &model, None, Scored { layers, kept, targets, treatments, maps })
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
        let folder = self.folder.path(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut out = NewFile::create(&folder.join("ranks.tsv"))?;
        out.write_all(ranks::HEADER.as_bytes())?;
        let bar = common::progress(self.sets.iter().map(|(q, _)| q.texts()).sum(), "scoring");
        for (i, (questions, views_here)) in self.sets.iter().enumerate() {
            let collection = &questions.collection;
            let vectors = questions.embed(model, adapters, &readings(&scored.layers), |n| bar.inc(n as u64))?;
            let judged = judge(&model.device, collection, &vectors, views_here, &scored.treatments, &scored.maps)?;
            if i == 0 && scored.layers.len() > scored.kept.len() {
                run.by_layer = by_layer(&judged);
            }
            if i == 0 {
                let all = views(collection, Views::Matrix);
                let vectors = vectors.only(&readings(&scored.targets));
                run.matrices =
                    matrices(&judge(&model.device, collection, &vectors, &all, &[Treatment::Plain], &HashMap::new())?);
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

    fn is_finished(&self, name: &str) -> bool {
        self.folder.path(name).join("run.json").exists()
    }

    fn perplexity(&self, model: &Model, adapters: Option<&Adapters>) -> Result<Option<f64>> {
        let texts: Vec<&[u32]> = self.text.iter().map(Vec::as_slice).collect();
        Ok(if texts.is_empty() { None } else { Some(perplexity(model, adapters, &texts)?) })
    }

    /// The rate after which the development pairs find each other best, by their mean reciprocal rank.
    fn choose_rate(&self, arm: Arm, settings: &Settings) -> Result<f64> {
        let mut tried = vec![];
        for factor in &self.args.rates {
            let rate = three_digits(settings.learning_rate * factor);
            let path = self.folder.path(&arm.to_string()).join(format!("rate-{rate:e}.json"));
            let found = if path.exists() {
                read_json::<f64>(&path)?
            } else if self.args.rates.len() == 1 {
                f64::NAN
            } else {
                let settings = Settings { learning_rate: rate, ..settings.clone() };
                let found = match not_finite(self.learn(arm, &settings, &[settings.target]), rate)? {
                    Ok(trained) => {
                        let (model, adapters) = (&trained.trainer.model, trained.trainer.learner.adapters());
                        let words = self.words(1, model, adapters, &[settings.target])?;
                        let found = words.values().map(Words::reciprocal_rank).sum();
                        println!("{arm}, rate {rate:e}: dev MRR {found:.3}, {:.1} s", trained.seconds);
                        found
                    }
                    // A model of such weights finds nothing.
                    Err(diverged) => {
                        println!("{arm}, rate {rate:e}: {}", diverged.short());
                        0.0
                    }
                };
                std::fs::create_dir_all(self.folder.path(&arm.to_string()))?;
                output::write_file(&path, serde_json::to_string(&found)?)?;
                found
            };
            tried.push((rate, found));
        }
        let best = tried.iter().fold(tried[0], |best, other| if other.1 > best.1 { *other } else { best });
        Ok(best.0)
    }

    /// One seed of an arm, trained and measured unless it is there, or has been seen to diverge.
    fn seed(&self, arm: Arm, settings: &Settings, learning_rate: f64, seed: u64) -> Result<()> {
        let name = format!("{arm}/seed-{seed}");
        if self.is_finished(&name) || self.folder.diverged(&name)?.is_some() {
            return Ok(());
        }
        let settings = Settings { learning_rate, seed, ..settings.clone() };
        let layers =
            if settings.target == Layer::Final { vec![Layer::Final] } else { vec![settings.target, Layer::Final] };
        let trained = match not_finite(self.learn(arm, &settings, &layers), learning_rate)? {
            Ok(trained) => trained,
            Err(diverged) => {
                println!("{arm}, seed {seed}: {}", diverged.short());
                return self.folder.diverge(&name, &diverged.short());
            }
        };
        let (model, adapters) = (&trained.trainer.model, trained.trainer.learner.adapters());
        let run = Run {
            seed,
            learning_rate: Some(learning_rate),
            parameters: trained.plan.parameters,
            steps: trained.losses.len(),
            final_loss: trained.final_loss,
            seconds: trained.seconds,
            memory: trained.memory,
            collapsed: trained.collapsed,
            peak: trained.peak,
            losses: trained.losses,
            matrices: BTreeMap::new(),
            dev: self.words(1, model, adapters, &[settings.target])?,
            control: self.words(2, model, adapters, &[settings.target])?,
            perplexity: self.perplexity(model, adapters)?,
            by_layer: BTreeMap::new(),
        };
        let (kept, targets) = (layers.clone(), vec![settings.target]);
        let scored = Scored { layers, kept, targets, treatments: TREATMENTS.to_vec(), maps: HashMap::new() };
        self.measure(&name, run, model, adapters, scored)?;
        println!("{arm}, seed {seed}: loss {:.3}, {:.1} s", trained.final_loss.unwrap_or(f32::NAN), trained.seconds);
        Ok(())
    }

    fn learn(&self, arm: Arm, settings: &Settings, layers: &[Layer]) -> Result<Trained> {
        let train = arm.group(self.train());
        let plan = Plan::new(settings, &self.config, layers)?;
        let mut parts = plan.parts;
        if layers.contains(&Layer::Final) && !self.text.is_empty() {
            parts = self.whole();
        }
        common::forget_peak(&self.device);
        let model = self.load(settings.base, parts)?;
        let others = self.data.groups[1..].iter().flat_map(|(_, g)| &g.pairs);
        let translations = Translations::new(train.pairs.iter().chain(others));
        let learner = Learner::new(&plan, settings, &model)?;
        let mut trainer = Trainer::with_learner(model, learner, settings, &plan, &train, translations)?;
        let all: Vec<_> = self.data.groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let dev = Probe::new(&self.data.groups[1].1, &all, POOLING)?;
        let bar = common::progress(run::total_steps(train.len(), settings), "training");
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
            peak: common::memory(&self.device).map(|memory| memory.peak),
            memory: plan.memory(settings, &self.config, &self.device, self.compute, tokens, train.tokens()).total(),
            collapsed: collapse.is_some_and(|c| c.collapsed),
            trainer,
            plan,
            losses,
            final_loss,
        })
    }
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

/// A rate as people write it: 3 times 2e-4 is 6e-4, not 6.000000000000001e-4.
fn three_digits(rate: f64) -> f64 {
    format!("{rate:.2e}").parse().unwrap_or(rate)
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
