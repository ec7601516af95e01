use super::ModelId;
use super::environment::Environment;
use crate::formats::safetensors::CheckpointError;
use std::io;
use std::path::PathBuf;

/// Why a model cannot be had from a hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nobody says where the cache is.
    #[error("no home folder to keep models in; set HF_HOME to a folder")]
    NoHome,
    /// No network is allowed, and the file is not here.
    #[error("{id}: {file} is not in the cache ({}), and HF_HUB_OFFLINE is set; unset it, or run once where there is a network", cache.display())]
    Offline {
        /// The model.
        id: ModelId,
        /// The file.
        file: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub does not answer.
    #[error(
        "{id}: {endpoint} cannot be reached: {message}; see to the network and HF_ENDPOINT, or give --model a folder (no folder is called {id})"
    )]
    Unreachable {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
        /// What happened.
        message: String,
    },
    /// The hub has no such model, or does not show it to this user.
    #[error("{id}: no folder here, and no such model at {endpoint}, or a private one; see to the spelling{}", match token {
        Some(place) => format!(", and whose token is in {place}"),
        None => ", or set HF_TOKEN if it is private".to_string(),
    })]
    NotFound {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
        /// Where the token comes from that was sent.
        token: Option<String>,
    },
    /// Its owner asks who reads it.
    #[error("{id} is gated: {}", access(id, endpoint, token.as_deref(), *known))]
    Gated {
        /// The model.
        id: ModelId,
        /// The hub.
        endpoint: String,
        /// Where the token comes from that was sent.
        token: Option<String>,
        /// The hub knows who asked, and refused.
        known: bool,
    },
    /// The connection broke, again and again.
    #[error("{id}: {file}: {message}, {tries} times in a row; give the command again: it goes on where it stopped")]
    Broken {
        /// The model.
        id: ModelId,
        /// The file.
        file: String,
        /// What happened last.
        message: String,
        /// How often.
        tries: usize,
    },
    /// What arrived is not what was announced.
    #[error(
        "{id}: {file}: what arrived has not the SHA-256 that the hub announces, and was removed; give the command again"
    )]
    Damaged {
        /// The model.
        id: ModelId,
        /// The file.
        file: String,
    },
    /// Another process is at it.
    #[error("{id}: {file}: another process is fetching it (it holds {}); wait for its end", lock.display())]
    Busy {
        /// The model.
        id: ModelId,
        /// The file.
        file: String,
        /// What it holds.
        lock: PathBuf,
    },
    /// The model changed between two files.
    #[error("{id}: changed at the hub while it was fetched; give the command again, or name a commit: {}@COMMIT", id.repository)]
    Moved {
        /// The model.
        id: ModelId,
    },
    /// The hub refuses a file, or answers nonsense.
    #[error("{id}: {file}: {message}")]
    Answer {
        /// The model.
        id: ModelId,
        /// The file, or the address.
        file: String,
        /// What it answers.
        message: String,
    },
    /// Nothing that can be read.
    #[error(
        "{id}: no *.safetensors file; take a model that has some, or convert it with transformers' save_pretrained"
    )]
    NoWeights {
        /// The model.
        id: ModelId,
    },
    /// The index is none.
    #[error("{}: not an index of safetensors files: {message}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No time limit.
    #[error("HF_HUB_DOWNLOAD_TIMEOUT is {0:?}, expected a number of seconds above 0")]
    Timeout(String),
    /// What was fetched cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl HubError {
    pub(super) fn offline(id: &ModelId, file: &str, environment: &Environment) -> HubError {
        HubError::Offline { id: id.clone(), file: file.into(), cache: environment.cache.clone() }
    }

    /// A name that no file may have.
    pub(super) fn answer(id: &ModelId, found: &str) -> HubError {
        let message = format!("the hub names it {found:?}, which is no name of a file");
        HubError::Answer { id: id.clone(), file: "commit".into(), message }
    }
}

/// How to get access to a gated model.
fn access(id: &ModelId, endpoint: &str, token: Option<&str>, known: bool) -> String {
    let page = format!("{endpoint}/{}", id.repository);
    match token {
        None => format!(
            "ask for access at {page} while you are logged in there, make a token at {endpoint}/settings/tokens, and set \
             HF_TOKEN to it (or run: hf auth login)"
        ),
        Some(place) if known => format!(
            "the account whose token is in {place} has no access yet; ask for it at {page}, and see to it that the token may \
             read gated repositories"
        ),
        Some(place) => {
            format!(
                "the token in {place} is not valid; make one at {endpoint}/settings/tokens, and ask for access at {page}"
            )
        }
    }
}
