//! `kiungo.json`: what trained weights were trained on, and how they want to be read. Lies beside them.

use super::output::{self, OutputError};
use super::safetensors::{Checkpoint, CheckpointError};
use super::tokenizer::Bos;
use crate::llama::config::{Config, ConfigError};
use crate::llama::model::names;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file.
pub const FILE: &str = "kiungo.json";

/// The record of a training. Choices are written as the words that the command line takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of kiungo that wrote it.
    pub version: String,
    /// Path or name of the base model.
    pub base_model: String,
    /// What tells the base model from others.
    pub base_identity: Identity,
    /// How the base's linear weights were held: `f32`, `bf16`, `nf4`, `nf4-double`.
    pub base: String,
    /// `lora` or `full`.
    pub method: String,
    /// Where the loss read: a number of blocks, or `final`.
    pub target: String,
    /// How training made one vector of a sequence.
    pub training_pooling: String,
    /// How evaluation does.
    pub pooling: String,
    /// Whether a BOS is put in front.
    pub bos: Bos,
    /// Longest sequence, in tokens.
    pub max_length: usize,
    /// Seed of the training.
    pub seed: u64,
}

/// What tells a model from others: beginnings of SHA-256, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the settings that decide the arithmetic.
    pub config: String,
    /// Of the weights, part by part (`embedding`, `block 0`, ..., and others by their names): of a model from a hub only the
    /// parts that were fetched. See [`Checkpoint::identities`].
    pub weights: BTreeMap<String, String>,
}

/// Digits of a hash that are kept.
const DIGITS: usize = 16;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a record.
    #[error("{}: not a record of kiungo: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The weights were trained on another base.
    #[error("{}: trained on {base_model}, and {} has other {what}; give the base it was trained on", path.display(), found.display())]
    OtherBase {
        /// The record's file.
        path: PathBuf,
        /// The base it names.
        base_model: String,
        /// The base that was given.
        found: PathBuf,
        /// `weights` or `settings`.
        what: &'static str,
    },
    /// The base cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The base cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Identity {
    /// Of the model in a checkpoint's folder.
    pub fn of(checkpoint: &Checkpoint) -> Result<Identity, RecordError> {
        let config = Config::open(checkpoint.path())?;
        let mut weights = checkpoint.identities(part)?;
        weights.values_mut().for_each(|hash| hash.truncate(DIGITS));
        Ok(Identity { config: config_identity(&config), weights })
    }

    /// A text that differs where the weights do.
    pub fn weights_in_short(&self) -> String {
        let mut hash = Sha256::new();
        self.weights.iter().for_each(|(part, value)| hash.update(format!("{part} {value} ")));
        format!("{:x}", hash.finalize())
    }

    /// True for the same model, as far as both know its parts.
    pub fn is_of(&self, other: &Identity) -> bool {
        self.config == other.config && self.has_weights_of(other)
    }

    /// True where all parts agree that both have; one at least.
    fn has_weights_of(&self, other: &Identity) -> bool {
        let mut shared =
            self.weights.iter().filter_map(|(part, hash)| Some((hash, other.weights.get(part)?))).peekable();
        shared.peek().is_some() && shared.all(|(a, b)| a == b)
    }
}

impl Record {
    /// Reads the record in a folder.
    pub fn open(folder: &Path) -> Result<Record, RecordError> {
        let path = folder.join(FILE);
        let bytes = std::fs::read(&path).map_err(|source| RecordError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|e| RecordError::Malformed { path, message: e.to_string() })
    }

    /// The same, or None where the folder has no record: weights that another program trained.
    pub fn open_if_present(folder: &Path) -> Result<Option<Record>, RecordError> {
        match Record::open(folder) {
            Err(RecordError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            record => record.map(Some),
        }
    }

    /// Writes the record into a folder that exists.
    pub fn write(&self, folder: &Path) -> Result<(), RecordError> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| RecordError::Malformed { path: path.clone(), message: e.to_string() })?;
        Ok(output::write_file(&path, text + "\n")?)
    }

    /// An error unless `base` is the model that the weights in `folder` were trained on.
    pub fn check_base(&self, base: &Checkpoint, folder: &Path) -> Result<(), RecordError> {
        let found = Identity::of(base)?;
        let what = match &self.base_identity {
            expected if !expected.has_weights_of(&found) => "weights",
            expected if expected.config != found.config => "settings",
            _ => return Ok(()),
        };
        let (path, base_model) = (folder.join(FILE), self.base_model.clone());
        Err(RecordError::OtherBase { path, base_model, found: base.path().into(), what })
    }
}

/// The part of a model that a tensor belongs to.
fn part(name: &str) -> String {
    match names::block(name) {
        Some(block) => format!("block {block}"),
        None if name == names::EMBEDDING => "embedding".into(),
        None => name.into(),
    }
}

/// Over what a forward pass depends on, so that a new `transformers_version` or a moved field does not make another
/// model.
fn config_identity(config: &Config) -> String {
    let Config { hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size, .. } = config;
    let sizes = [hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size];
    let Config { rms_norm_eps, rope_theta, rope_scaling, tie_word_embeddings, .. } = config;
    let text = format!("{sizes:?} {rms_norm_eps:?} {rope_theta:?} {rope_scaling:?} {tie_word_embeddings}");
    format!("{:x}", Sha256::digest(text))
}
