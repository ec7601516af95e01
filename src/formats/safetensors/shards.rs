//! Finding the files of a checkpoint and reading their headers.

use super::{CheckpointError, Result};
use safetensors::tensor::Metadata;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// Name of the index of a checkpoint in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// One file of a checkpoint: its header, read and checked, and its data, not yet read.
#[derive(Debug)]
pub struct Shard {
    pub path: PathBuf,
    pub metadata: Metadata,
    file: File,
    data_start: u64,
}

impl Shard {
    pub fn open(path: PathBuf) -> Result<Shard> {
        let read = |source| CheckpointError::Read { path: path.clone(), source };
        let malformed = |message: String| CheckpointError::Malformed { path: path.clone(), message };
        let file = File::open(&path).map_err(read)?;
        let found = file.metadata().map_err(read)?.len();
        if found < 8 {
            return Err(CheckpointError::Size { path, expected: 8, found });
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(read)?;
        if &length == b"version " {
            return Err(malformed("a Git LFS pointer, not the file itself; run `git lfs pull`".into()));
        }
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(malformed("not a safetensors file".into()));
        }
        let data_start = 8 + length;
        if data_start > found {
            return Err(CheckpointError::Size { path, expected: data_start, found });
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| malformed(format!("not a safetensors header: {e}")))?;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != found {
            return Err(CheckpointError::Size { path, expected, found });
        }
        Ok(Shard { path, metadata, file, data_start })
    }

    /// Fills `bytes` from `offset` on, counted from the end of the header. A file that has become shorter is an error.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let read = self.file.read_exact_at(bytes, self.data_start + offset as u64);
        read.map_err(|source| match self.file.metadata() {
            Ok(now) if source.kind() == io::ErrorKind::UnexpectedEof => {
                let expected = self.data_start + self.metadata.data_len() as u64;
                CheckpointError::Size { path: self.path.clone(), expected, found: now.len() }
            }
            _ => CheckpointError::Read { path: self.path.clone(), source },
        })
    }
}

/// The weight files of a folder in order of their names: every `*.safetensors`, whether an index names it or not
/// (indices in the wild lack tensors that their shards hold).
pub fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| CheckpointError::Read { path: folder.into(), source })?;
    let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let has = |extension: &str| names.iter().find(|name| name.ends_with(extension));
    check_index(folder)?;
    if has(".safetensors").is_none() {
        let remedy = remedy([".bin", ".pt", ".pth", ".gguf"].into_iter().find_map(has));
        return Err(CheckpointError::NoWeights { folder: folder.into(), remedy });
    }
    let shards = names.iter().filter(|name| name.ends_with(".safetensors"));
    shards.map(|name| inside(folder, name)).collect()
}

fn remedy(other: Option<&String>) -> String {
    match other {
        None => "expected a checkpoint folder in Hugging Face's layout".into(),
        Some(name) if name.ends_with(".gguf") => {
            format!("{name} is not read: take the original checkpoint in Hugging Face's layout")
        }
        Some(name) => format!(
            "{name} is a pickle, which can run code when it is read: load it where you trust it and save it again \
             with transformers' model.save_pretrained(folder)"
        ),
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every file that the index names must be there.
fn check_index(folder: &Path) -> Result<()> {
    let path = folder.join(INDEX);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CheckpointError::Read { path, source }),
    };
    let index: Index = serde_json::from_slice(&text).map_err(|e| CheckpointError::Malformed {
        path: path.clone(),
        message: format!("not an index of safetensors files: {e}"),
    })?;
    for shard in index.weight_map.into_values() {
        let mut parts = Path::new(&shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(CheckpointError::Outside { path, what: shard });
        }
        if fs::symlink_metadata(folder.join(&shard)).is_err() {
            return Err(CheckpointError::MissingShard { index: path, shard });
        }
    }
    Ok(())
}

/// The path of a file that lies in the folder, links followed.
///
/// Hugging Face's cache is the exception: its `snapshots/REVISION` holds links into `blobs` two folders above.
pub fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let resolve = |p: &Path| p.canonicalize().map_err(|source| CheckpointError::Read { path: p.into(), source });
    let (target, folder) = (resolve(&path)?, resolve(folder)?);
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    if target.starts_with(&folder) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(path);
    }
    Err(CheckpointError::Outside { path, what: format!("its target {}", target.display()) })
}
