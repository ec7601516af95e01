//! The model that commands are given: a folder, a name on a hub, or random weights made on the spot.

use super::common;
use crate::formats::hub::{ModelId, Snapshot};
use crate::formats::kiungo_json::Identity;
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::Tokenizer;
use crate::formats::weights::{self, Options};
use crate::llama::Parts;
use crate::llama::config::Config;
use crate::llama::model::{Model, names};
use crate::llama::plan::is_read;
use crate::llama::random;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Seed of random weights.
const SEED: u64 = 1;

/// An architecture whose weights are drawn: its name, or the path of a config.json.
#[derive(Clone, Debug)]
pub struct RandomModel {
    name: String,
    pub config: Config,
    pub seed: u64,
}

impl FromStr for RandomModel {
    type Err = String;
    fn from_str(name: &str) -> Result<RandomModel, String> {
        let named = || match std::fs::read_to_string(name) {
            Ok(text) => Config::parse(Path::new(name), &text).map_err(|e| e.to_string()),
            Err(e) => Err(format!("{name:?} is neither {} nor a config.json: {e}", Config::names().join(", "))),
        };
        let config = Config::named(name).map_or_else(named, Ok)?;
        Ok(RandomModel { name: name.into(), config, seed: SEED })
    }
}

/// Where a model comes from: `DIR`, `ORG/NAME` or `ORG/NAME@REVISION`, or `random:NAME`.
#[derive(Clone, Debug)]
pub enum Source {
    /// A checkpoint in Hugging Face's layout.
    Folder(PathBuf),
    /// A model on a hub.
    Hub(ModelId),
    /// Random weights, which know nothing.
    Random(Box<RandomModel>),
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Source, String> {
        if let Some(name) = text.strip_prefix("random:") {
            return Ok(Source::Random(Box::new(name.parse()?)));
        }
        // A folder that is there is meant, be it called as a model may be.
        let by_name = || ModelId::parse(text).filter(|_| !Path::new(text).exists());
        Ok(by_name().map_or_else(|| Source::Folder(text.into()), Source::Hub))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(folder) => write!(f, "{}", folder.display()),
            Source::Hub(id) => id.fmt(f),
            Source::Random(random) => write!(f, "random:{}", random.name),
        }
    }
}

impl Source {
    /// The same with a path that does not depend on the folder that the program was started in.
    pub fn absolute(self) -> std::io::Result<Source> {
        Ok(match self {
            Source::Folder(folder) => Source::Folder(std::path::absolute(folder)?),
            other => other,
        })
    }

    /// The model's settings, fetched where they are not here. Says so where the weights will be random.
    pub fn open(&self) -> Result<ModelFiles> {
        let (config, snapshot) = match self {
            Source::Folder(folder) => (Config::open(folder)?, None),
            Source::Hub(id) => {
                let snapshot = common::fetching(|progress| Snapshot::open(id, progress))?;
                snapshot.notes.iter().for_each(|note| eprintln!("note: {note}"));
                (Config::open(snapshot.folder())?, Some(snapshot))
            }
            Source::Random(random) => {
                eprintln!("WARNING: {self} has random weights: for benchmarks alone, every result is meaningless");
                (random.config.clone(), None)
            }
        };
        Ok(ModelFiles { source: self.clone(), config, snapshot })
    }
}

/// A model whose settings are here. Its weights come when it is known which.
pub struct ModelFiles {
    source: Source,
    /// The architecture.
    pub config: Config,
    snapshot: Option<Snapshot>,
}

impl fmt::Display for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl ModelFiles {
    /// The folder of its settings and its tokenizer, where it has one.
    pub fn folder(&self) -> Option<&Path> {
        match (&self.source, &self.snapshot) {
            (Source::Folder(folder), _) => Some(folder),
            (_, snapshot) => snapshot.as_ref().map(Snapshot::folder),
        }
    }

    /// Its tokenizer, or that of another folder.
    pub fn tokenizer(&self, other: Option<&Path>) -> Result<Tokenizer> {
        let folder = other.or(self.folder());
        let folder = folder.with_context(|| format!("{self}: it has no tokenizer: give --tokenizer DIR"))?;
        Ok(Tokenizer::open(folder, &self.config)?)
    }

    /// The files with the weights of `parts`; of a model on a hub those that are not here are fetched. None of random weights.
    pub fn checkpoint(&self, parts: Parts) -> Result<Option<Checkpoint>> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(self.folder().map(Checkpoint::open).transpose()?);
        };
        let (files, read) = (self.weight_files(snapshot, parts)?, |name: &str| is_read(parts, name));
        Ok(Some(common::fetching(|progress| snapshot.checkpoint(&files, read, progress))?))
    }

    /// Everything that the model has.
    pub fn all(&self) -> Parts {
        Parts { blocks: self.config.layers, final_norm: true, head: true }
    }

    /// The files with all weights.
    pub fn whole(&self) -> Result<Checkpoint> {
        self.checkpoint(self.all())?
            .with_context(|| format!("{self}: its weights are in no file; kiungo random writes some"))
    }

    /// The same as [`checkpoint`](ModelFiles::checkpoint) for a dry run, which fetches no weights: None, with a word about what
    /// would be fetched, where some are missing.
    pub fn checkpoint_here(&self, parts: Parts) -> Result<Option<Checkpoint>> {
        match self.missing(parts)? {
            (missing, _) if missing.is_empty() => self.checkpoint(parts),
            (missing, all) => {
                println!("fetches {} of {all} files with weights: {}", missing.len(), missing.join(", "));
                Ok(None)
            }
        }
    }

    /// Of a model on a hub, the files with the weights of `parts` that are still there, and how many files these weights have.
    pub fn missing(&self, parts: Parts) -> Result<(Vec<String>, usize)> {
        let Some(snapshot) = &self.snapshot else { return Ok((vec![], 0)) };
        let files = self.weight_files(snapshot, parts)?;
        Ok((snapshot.missing(&files).into_iter().map(String::from).collect(), files.len()))
    }

    fn weight_files(&self, snapshot: &Snapshot, parts: Parts) -> Result<Vec<String>> {
        let needed = names::all(&self.config).into_iter().map(|(name, _)| name).filter(|name| is_read(parts, name));
        Ok(snapshot.weight_files(&needed.collect::<Vec<_>>(), |name| is_read(parts, name))?)
    }

    /// What tells the model from others.
    pub fn identity(&self, checkpoint: Option<&Checkpoint>) -> Result<Identity> {
        match checkpoint {
            Some(checkpoint) => Ok(Identity::of(checkpoint)?),
            None => Ok(Identity { config: self.to_string(), weights: BTreeMap::new() }),
        }
    }

    /// Reads the weights, or draws them where there is no checkpoint. `progress` hears the name of each that is read.
    pub fn load(&self, checkpoint: Option<&Checkpoint>, options: Options, progress: impl Fn(&str)) -> Result<Model> {
        match (&self.source, checkpoint) {
            (_, Some(checkpoint)) => Ok(weights::load(checkpoint, &self.config, options, progress)?),
            (Source::Random(random), None) => Ok(random::model(&self.config, options, random.seed)?),
            (_, None) => {
                let checkpoint = self.checkpoint(options.parts)?.with_context(|| format!("{self}: no weights"))?;
                Ok(weights::load(&checkpoint, &self.config, options, progress)?)
            }
        }
    }
}
