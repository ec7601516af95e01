//! The model that commands are given: a folder, or random weights made on the spot.

use crate::formats::safetensors::Checkpoint;
use crate::formats::weights::{self, Options};
use crate::llama::config::Config;
use crate::llama::model::Model;
use crate::llama::random;
use anyhow::Result;
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

/// Where a model comes from: `DIR`, or `random:NAME`.
#[derive(Clone, Debug)]
pub enum Source {
    /// A checkpoint in Hugging Face's layout.
    Folder(PathBuf),
    /// Random weights, which know nothing.
    Random(Box<RandomModel>),
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Source, String> {
        match text.strip_prefix("random:") {
            None => Ok(Source::Folder(text.into())),
            Some(name) => Ok(Source::Random(Box::new(name.parse()?))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(folder) => write!(f, "{}", folder.display()),
            Source::Random(random) => write!(f, "random:{}", random.name),
        }
    }
}

impl Source {
    /// The architecture. Says so where the weights will be random.
    pub fn config(&self) -> Result<Config> {
        match self {
            Source::Folder(folder) => Ok(Config::open(folder)?),
            Source::Random(random) => {
                eprintln!("WARNING: {self} has random weights: for benchmarks alone, every result is meaningless");
                Ok(random.config.clone())
            }
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Source::Folder(folder) => Some(folder),
            Source::Random(_) => None,
        }
    }

    /// The files, where there are some.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(self.folder().map(Checkpoint::open).transpose()?)
    }

    /// Reads or draws the weights. `progress` hears the name of each that is read.
    pub fn load(
        &self,
        checkpoint: Option<&Checkpoint>,
        config: &Config,
        options: Options,
        progress: impl Fn(&str),
    ) -> Result<Model> {
        match (self, checkpoint) {
            (Source::Random(random), _) => Ok(random::model(config, options, random.seed)?),
            (Source::Folder(_), Some(checkpoint)) => Ok(weights::load(checkpoint, config, options, progress)?),
            (Source::Folder(folder), None) => Ok(weights::load(&Checkpoint::open(folder)?, config, options, progress)?),
        }
    }
}
