//! What all runs of a comparison share: the texts, the model's files, the folder.

use super::{Compare, Folder};
use crate::commands::common::{self, Compute};
use crate::commands::inputs;
use crate::commands::train::data::{Data, Sources, checksum};
use crate::device::{DType, Device};
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Encoding};
use crate::formats::weights::{Options, load};
use crate::llama::config::Config;
use crate::llama::model::{Base, Model};
use crate::llama::{Layer, Parts};
use crate::retrieval::questions::Questions;
use crate::retrieval::views::{View, Views, views};
use crate::training::arms::Arm;
use crate::training::batch::Group;
use crate::training::settings::Settings;
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all runs share.
pub struct Lab {
    pub folder: Folder,
    pub args: Compare,
    pub config: Config,
    pub device: Device,
    pub compute: DType,
    pub data: Data,
    pub sets: Vec<(Questions, Vec<View>)>,
    /// Of `--text`, a sequence a line.
    pub text: Vec<Vec<u32>>,
    checkpoint: Checkpoint,
    positions: usize,
    checksums: BTreeMap<String, String>,
}

impl Lab {
    pub fn open(args: Compare) -> Result<Lab> {
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
        let mut checksums = sources.checksums()?;
        checksums.extend(args.text.as_deref().map(checksum).transpose()?);
        let device = common::open_device(args.device)?;
        Ok(Lab {
            compute: Compute::or_default(args.compute, &device),
            checkpoint: files.whole()?,
            positions: longest.unwrap_or(1),
            checksums,
            folder: Folder(args.output.clone()),
            args,
            config,
            device,
            data,
            sets,
            text,
        })
    }

    /// What was chosen, dropped or cut, in words.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.data.notes.clone();
        for (set, _) in &self.sets {
            notes.extend(set.collection.notes.iter().cloned());
            notes.extend(set.cuts(self.max_length()));
        }
        if self.args.jobs > 1 {
            notes
                .push(format!("{} runs shared the device: each would have taken fewer seconds alone.", self.args.jobs));
        }
        notes
    }

    fn max_length(&self) -> usize {
        self.args.max_length.unwrap_or(self.config.max_positions)
    }

    /// What decides the results, with the checksums of all that is read.
    pub fn record(&self) -> Result<Value> {
        let mut record = self.args.record(&self.device)?;
        record["checksums"] = json!(self.checksums);
        let texts = self.sets.iter().map(|(set, _)| (set.collection.name.clone(), set.collection.identity()));
        record["texts"] = json!(texts.collect::<BTreeMap<_, _>>());
        record["weights"] = json!(self.checkpoint.identity()?);
        Ok(record)
    }

    /// Of an arm. The blocks of `cka:N` are for who has the model to choose.
    pub fn settings(&self, arm: Arm) -> Settings {
        let mut settings = arm.settings(&self.config);
        settings.base = arm.base(self.args.base);
        if arm != Arm::Paper {
            settings.epochs = self.args.epochs.unwrap_or(settings.epochs);
            settings.batch = self.args.batch.unwrap_or(settings.batch);
        }
        settings.max_length = self.max_length();
        settings
    }

    /// The learning rates to try.
    pub fn rates(&self, settings: &Settings) -> Vec<f64> {
        self.args.rates.iter().map(|factor| three_digits(settings.learning_rate * factor)).collect()
    }

    /// The rate after which the development pairs found each other best.
    pub fn chosen_rate(&self, arm: Arm, settings: &Settings) -> Result<f64> {
        let rates = self.rates(settings);
        let mut best = (rates[0], f64::NEG_INFINITY);
        for rate in rates {
            let found = self.folder.rate(arm, rate)?.unwrap_or(f64::NAN);
            if found > best.1 {
                best = (rate, found);
            }
        }
        Ok(best.0)
    }

    /// Whether a run is there, measured.
    pub fn is_finished(&self, name: &str) -> bool {
        self.folder.path(name).join("run.json").exists()
    }

    /// The pairs to learn from.
    pub fn train(&self) -> &Group {
        &self.data.groups[0].1
    }

    pub fn load(&self, device: &Device, base: Base, parts: Parts) -> Result<Model> {
        let options = Options { parts, base, compute: self.compute, device, positions: self.positions };
        Ok(load(&self.checkpoint, &self.config, options, |_| {})?)
    }

    /// Every block, and the head where there is a text to predict.
    pub fn whole(&self) -> Parts {
        Parts { blocks: self.config.layers, final_norm: true, head: !self.text.is_empty() }
    }

    /// All states of the model, from the bottom.
    pub fn layers(&self) -> Vec<Layer> {
        (0..=self.config.layers).map(Layer::Hidden).chain([Layer::Final]).collect()
    }
}

/// A rate as people write it: 3 times 2e-4 is 6e-4, not 6.000000000000001e-4.
fn three_digits(rate: f64) -> f64 {
    format!("{rate:.2e}").parse().unwrap_or(rate)
}
