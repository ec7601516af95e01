//! Checkpoints: what a run continues from after it was stopped or killed, at any moment.
//!
//! A checkpoint is a folder `step-NNNNNNNN` with
//!
//! - `state.safetensors`: all that steps change ([`Trainer::tensors`]),
//! - `progress.json`: where the run was ([`Progress`]). The rates, the order of pairs and dropout follow from the
//!   step's number and the seed: no generator has a state of its own,
//! - `config.json`: the run's configuration, as it was begun,
//! - `complete.json`: size and SHA-256 of the others, written last.
//!
//! It is written under a temporary name, synced, and renamed, so that it is whole or absent; what a disk or a person did
//! to it afterwards shows in the checksums.

use super::step::Trainer;
use crate::device::{DeviceError, Tensor};
use crate::formats::output::{self, NewFolder, OutputError};
use crate::formats::safetensors::{Checkpoint as Safetensors, CheckpointError, TensorLayout, write_safetensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const STATE: &str = "state.safetensors";
const PROGRESS: &str = "progress.json";
const CONFIG: &str = "config.json";
const COMPLETE: &str = "complete.json";
/// Of the format; another one is not read.
const VERSION: u32 = 1;

type Result<T = ()> = std::result::Result<T, SaveError>;

/// Where a run was when a checkpoint was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Those of them that changed nothing, because their loss or gradient was not finite.
    pub skipped: u32,
    /// Bytes of `metrics.jsonl` by then.
    pub metrics_bytes: u64,
    /// Wall time of training by then, seconds.
    pub seconds: f64,
    /// The device, in words.
    pub device: String,
}

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The state cannot be written or read.
    #[error(transparent)]
    State(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it was when the checkpoint was made.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// No checkpoint of a run is whole.
    #[error("{}: none of the checkpoints is whole ({newest}); remove the folder to train from the beginning", folder.display())]
    NoneWhole {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// What is wrong with the newest.
        newest: Box<SaveError>,
    },
    /// The state is of another run.
    #[error("{}: {message}; the checkpoint belongs to another run", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        message: String,
    },
}

/// The checkpoints of a run: a folder, and how many it keeps.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// A checkpoint whose files are as they were written.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Where it is.
    pub folder: PathBuf,
    /// Where the run was.
    pub progress: Progress,
}

/// What a look for checkpoints found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest that is whole.
    pub newest: Option<Whole>,
    /// Newer ones that are damaged, and why.
    pub damaged: Vec<SaveError>,
}

/// `complete.json`.
#[derive(Serialize, Deserialize)]
struct Complete {
    version: u32,
    files: BTreeMap<String, FileSum>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct FileSum {
    bytes: u64,
    sha256: String,
}

impl Checkpoints {
    /// In `folder`, which may not exist yet; the last `keep`, at least one, are kept.
    pub fn new(folder: PathBuf, keep: usize) -> Checkpoints {
        Checkpoints { folder, keep: keep.max(1) }
    }

    /// Writes a checkpoint, and removes those that are older than the last that are kept. Take all reports of the
    /// trainer first.
    pub fn save(&self, trainer: &mut Trainer, progress: &Progress, config: &str) -> Result<PathBuf> {
        let path = self.folder.join(name(progress.step));
        if Whole::open(&path, progress.step).is_ok() {
            return Ok(path);
        }
        output::remove_folder(&path)?;
        let new = NewFolder::create(&path)?;
        write_state(&new.path().join(STATE), trainer.tensors())?;
        output::write_file(&new.path().join(PROGRESS), to_json(progress)?)?;
        output::write_file(&new.path().join(CONFIG), config)?;
        let sum = |name: &str| Ok((name.to_string(), FileSum::of(&new.path().join(name))?));
        let files = [STATE, PROGRESS, CONFIG].map(sum).into_iter().collect::<Result<_>>()?;
        output::write_file(&new.path().join(COMPLETE), to_json(&Complete { version: VERSION, files })?)?;
        new.commit()?;
        self.forget(progress.step)?;
        Ok(path)
    }

    /// The newest whole checkpoint, and what is wrong with newer ones. An error where there are some and none is whole.
    pub fn newest(&self) -> Result<Found> {
        let mut found = Found::default();
        for step in self.steps()?.into_iter().rev() {
            match Whole::open(&self.folder.join(name(step)), step) {
                Ok(whole) => {
                    found.newest = Some(whole);
                    return Ok(found);
                }
                Err(damage) => found.damaged.push(damage),
            }
        }
        match found.damaged.into_iter().next() {
            None => Ok(Found::default()),
            Some(newest) => Err(SaveError::NoneWhole { folder: self.folder.clone(), newest: Box::new(newest) }),
        }
    }

    /// Removes what a killed run was writing.
    pub fn remove_temporaries(&self) -> Result {
        if self.folder.exists() { Ok(output::remove_temporaries(&self.folder)?) } else { Ok(()) }
    }

    /// Steps that have a checkpoint, whole or not, in order.
    fn steps(&self) -> Result<Vec<usize>> {
        let entries = match fs::read_dir(&self.folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(SaveError::Read { path: self.folder.clone(), source }),
        };
        let step = |e: &fs::DirEntry| e.file_name().to_string_lossy().strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<usize> = entries.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes all but the last that are kept, up to the newest. Later ones are damaged: the run came to `newest` from an
    /// earlier one.
    fn forget(&self, newest: usize) -> Result {
        let (mut kept, later): (Vec<usize>, Vec<usize>) = self.steps()?.into_iter().partition(|&step| step <= newest);
        let old = kept.len().saturating_sub(self.keep);
        for step in kept.drain(..old).chain(later) {
            output::remove_folder(&self.folder.join(name(step)))?;
        }
        Ok(())
    }
}

fn name(step: usize) -> String {
    format!("step-{step:08}")
}

impl Whole {
    /// Checks every file against its checksum.
    fn open(folder: &Path, step: usize) -> Result<Whole> {
        let complete: Complete = from_json(&folder.join(COMPLETE))?;
        let damaged =
            |name: &str, message: &str| SaveError::Damaged { path: folder.join(name), message: message.into() };
        if complete.version != VERSION {
            return Err(damaged(COMPLETE, "of another version of kiungo"));
        }
        for name in [STATE, PROGRESS, CONFIG] {
            let expected = complete.files.get(name).ok_or_else(|| damaged(COMPLETE, "lists too few files"))?;
            if FileSum::of(&folder.join(name))? != *expected {
                return Err(damaged(name, "not the bytes that were written, by its checksum"));
            }
        }
        let progress: Progress = from_json(&folder.join(PROGRESS))?;
        if progress.step != step {
            return Err(damaged(PROGRESS, "of another step than its folder"));
        }
        Ok(Whole { folder: folder.into(), progress })
    }

    /// The configuration of the run that made it.
    pub fn config(&self) -> Result<String> {
        let path = self.folder.join(CONFIG);
        fs::read_to_string(&path).map_err(|source| SaveError::Read { path, source })
    }

    /// Gives a trainer the state that it had, where it is of the same run: the same tensors.
    pub fn restore(&self, trainer: &mut Trainer) -> Result {
        let path = self.folder.join(STATE);
        let state = Safetensors::open_file(&path)?;
        let other = |message: String| SaveError::OtherRun { path: path.clone(), message };
        let mut tensors = trainer.tensors();
        let (expected, found) = (tensors.len(), state.tensors().count());
        if expected != found {
            return Err(other(format!("{found} tensors, expected {expected}")));
        }
        // All are looked at before the first is changed.
        for (name, tensor) in &tensors {
            if !state.contains(name) {
                return Err(other(format!("no tensor {name}")));
            }
            let info = state.tensor(name)?;
            let layout = TensorLayout::of(name, tensor);
            if (info.dtype, &info.shape) != (layout.dtype, &layout.shape) {
                return Err(other(format!("{name} is {} {:?}", info.dtype, info.shape)));
            }
        }
        for (name, tensor) in &mut tensors {
            tensor.write_bytes(&state.read_bytes(name)?)?;
        }
        Ok(())
    }
}

fn write_state(path: &Path, tensors: Vec<(String, &mut Tensor)>) -> Result {
    let layout: Vec<_> = tensors.iter().map(|(name, t)| TensorLayout::of(name, t)).collect();
    let tensors: BTreeMap<String, &mut Tensor> = tensors.into_iter().collect();
    write_safetensors(path, &layout, &BTreeMap::new(), |layout| match tensors.get(&layout.name) {
        Some(tensor) => Ok::<_, SaveError>(Cow::Owned(tensor.to_bytes()?)),
        None => Ok(Cow::Borrowed(&[])),
    })
}

impl FileSum {
    fn of(path: &Path) -> Result<FileSum> {
        let read = |source| SaveError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(read)?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(FileSum { bytes, sha256: format!("{:x}", hash.finalize()) }),
                Ok(n) => {
                    hash.update(&buffer[..n]);
                    bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read(e)),
            }
        }
    }
}

fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| SaveError::Damaged { path: COMPLETE.into(), message: e.to_string() })?;
    Ok(text + "\n")
}

fn from_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(|source| SaveError::Read { path: path.into(), source })?;
    serde_json::from_slice(&text).map_err(|e| SaveError::Damaged { path: path.into(), message: e.to_string() })
}
