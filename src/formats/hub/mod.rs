//! Models by name: what a command needs of one comes from a hub into the ordinary cache of Hugging Face.
//!
//! The cache is the one that `huggingface_hub` and transformers use, so that nothing is fetched twice: `HF_HUB_CACHE`, or
//! `HF_HOME/hub`, or `~/.cache/huggingface/hub`. `HF_ENDPOINT` names another hub, `HF_TOKEN` (or the file `HF_HOME/token`
//! that `hf auth login` writes) says who asks, and with `HF_HUB_OFFLINE=1` no network is used.
//!
//! A download that breaks goes on where it stopped, in this run or the next. Large files are checked against the SHA-256
//! that the hub announces. A hub that says nothing for `HF_HUB_DOWNLOAD_TIMEOUT` seconds (10) is asked again, five times in
//! a row at most.

mod client;
mod download;
mod environment;
mod error;

pub use error::HubError;

use super::safetensors::{Checkpoint, INDEX};
use client::Client;
use environment::Environment;
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Result<T, E = HubError> = std::result::Result<T, E>;

/// The revision of a model where none is named.
const MAIN: &str = "main";

/// What is fetched beside the weights, where the hub has it.
const SETTINGS: [&str; 7] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    super::kiungo_json::FILE,
    INDEX,
];

/// The name of a model on a hub: `org/name`, or `org/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    /// `org/name`.
    pub repository: String,
    /// A branch, a tag, or a commit.
    pub revision: String,
}

impl ModelId {
    /// What a text names, if it looks like a name and not like a path.
    pub fn parse(text: &str) -> Option<ModelId> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, name) = repository.split_once('/')?;
        let is_word = |word: &str| {
            let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            let middle = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            word.chars().all(middle) && ends_well(word.chars().next()) && !word.contains("..")
        };
        let known = is_word(owner) && is_word(name) && revision.split('/').all(is_word);
        known.then(|| ModelId { repository: repository.into(), revision: revision.into() })
    }

    /// The revision as a part of an address.
    fn in_address(&self) -> String {
        self.revision.replace('/', "%2F")
    }
}

impl std::fmt::Display for ModelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// Hears of a download: the file, its bytes that are here, and all of them.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// One commit of a model: its settings are in the cache, its weights are fetched when they are asked for.
pub struct Snapshot {
    id: ModelId,
    environment: Environment,
    client: Client,
    cache: CacheRepo,
    /// `snapshots/COMMIT` in the cache.
    folder: PathBuf,
    /// The files of the commit as the hub lists them; None without a connection.
    listing: Option<Vec<String>>,
    /// What was chosen, in words.
    pub notes: Vec<String>,
}

impl Snapshot {
    /// Finds a model's commit and fetches its settings. Without a connection what is in the cache is taken.
    pub fn open(id: &ModelId, progress: Progress) -> Result<Snapshot> {
        let environment = Environment::read()?;
        let repo = Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone());
        let cached = Cache::new(environment.cache.clone()).repo(repo);
        let client = Client::new(&environment);
        let about = format!("{}/api/models/{}/revision/{}", environment.endpoint, id.repository, id.in_address());
        let (mut notes, mut listing) = (vec![], None);
        let commit = match environment.offline {
            true => None,
            false => match download::info(&client, &about, id, &environment) {
                Ok(info) => {
                    listing = Some(info.siblings.into_iter().map(|file| file.rfilename).collect());
                    Some(info.sha)
                }
                // A commit that was fetched before is as good without a network.
                Err(HubError::Unreachable { message, endpoint, .. }) if newest(&cached, id).is_some() => {
                    notes.push(format!("{id}: {endpoint} cannot be reached ({message}); the cache's files are taken."));
                    None
                }
                Err(other) => return Err(other),
            },
        };
        let folder = match &commit {
            Some(commit) => cached.pointer_path(download::name(commit).ok_or_else(|| HubError::answer(id, commit))?),
            None => newest(&cached, id).ok_or_else(|| HubError::offline(id, "config.json", &environment))?,
        };
        let snapshot = Snapshot { id: id.clone(), environment, client, cache: cached, folder, listing, notes };
        let wanted = SETTINGS.iter().filter(|file| snapshot.has(file));
        wanted.copied().try_for_each(|file| snapshot.fetch(file, progress))?;
        if let Some(commit) = commit {
            let failed = |source| HubError::Cache { path: snapshot.folder.clone(), source };
            snapshot.cache.create_ref(&commit).map_err(failed)?;
        }
        Ok(snapshot)
    }

    /// The folder that its files are, or will be, in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files that hold the weights `needed`, by their names; all files where the index lacks one of them (indices in the
    /// wild lack tensors that their files hold).
    pub fn weight_files(&self, needed: &[String], is_read: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let path = self.folder.join(INDEX);
        if !path.exists() {
            return self.unindexed();
        }
        let malformed = |message: String| HubError::Index { path: path.clone(), message };
        let text = std::fs::read(&path).map_err(|source| HubError::Cache { path: path.clone(), source })?;
        let Index { weight_map } = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
        let all = needed.iter().any(|name| !weight_map.contains_key(name));
        let chosen = weight_map.iter().filter(|(name, _)| all || is_read(name));
        let files: BTreeSet<&String> = chosen.map(|(_, file)| file).collect();
        match files.iter().find(|file| download::name(file).is_none()) {
            Some(file) => Err(malformed(format!("{file:?} is no name of a file"))),
            None => Ok(files.into_iter().cloned().collect()),
        }
    }

    /// Of these files, those that are not here.
    pub fn missing<'f>(&self, files: &'f [String]) -> Vec<&'f str> {
        files.iter().map(String::as_str).filter(|file| !self.folder.join(file).exists()).collect()
    }

    /// Fetches files that are not here, and opens them; the tensors are those that `is_read` likes.
    pub fn checkpoint(
        &self,
        files: &[String],
        is_read: impl Fn(&str) -> bool,
        progress: Progress,
    ) -> Result<Checkpoint> {
        files.iter().try_for_each(|file| self.fetch(file, progress))?;
        Ok(Checkpoint::open_files(&self.folder, files, is_read)?)
    }

    /// The weights of a model without an index.
    fn unindexed(&self) -> Result<Vec<String>> {
        let here = || {
            let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let files: Vec<String> = self.listing.clone().unwrap_or_else(here);
        let mut weights: Vec<String> = files.into_iter().filter(|f| is_weights(f)).collect();
        weights.sort();
        let usual = "model.safetensors".to_string();
        match weights.contains(&usual) {
            true => Ok(vec![usual]),
            false if weights.is_empty() => Err(HubError::NoWeights { id: self.id.clone() }),
            false => Ok(weights),
        }
    }

    /// True where the commit has the file, as far as is known.
    fn has(&self, file: &str) -> bool {
        match &self.listing {
            // Without a settings file there is no model: better to hear that of the hub.
            Some(listing) => file == SETTINGS[0] || listing.iter().any(|there| there == file),
            None => self.folder.join(file).exists() || file == SETTINGS[0],
        }
    }

    fn url(&self, file: &str) -> String {
        let id = &self.id;
        format!("{}/{}/resolve/{}/{file}", self.environment.endpoint, id.repository, id.in_address())
    }

    fn fetch(&self, file: &str, progress: Progress) -> Result<()> {
        if self.folder.join(file).exists() {
            return Ok(());
        }
        if self.environment.offline {
            return Err(HubError::offline(&self.id, file, &self.environment));
        }
        download::Download { snapshot: self, file, progress }.run()
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") && download::name(file).is_some()
}

/// The commit of the revision that was fetched last, or the revision, where it is a commit that is here.
fn newest(cache: &CacheRepo, id: &ModelId) -> Option<PathBuf> {
    let by_reference = cache.get(SETTINGS[0]).and_then(|path| path.parent().map(PathBuf::from));
    by_reference.or_else(|| Some(cache.pointer_path(&id.revision)).filter(|folder| folder.is_dir()))
}
