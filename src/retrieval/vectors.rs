//! Vectors of a collection in a file, so that what was embedded once can be scored again.

use super::embed::Reading;
use super::questions::Vectors;
use super::{EmbeddingError, Embeddings};
use crate::formats::safetensors::{CheckpointError, TensorLayout, write_safetensors};
use safetensors::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why vectors cannot be saved or reused.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not of this kind.
    #[error("{}: not embeddings that kiungo saved: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file holds the vectors of something else.
    #[error("{}: made with other {what} ({found}, now {expected}); name another file, or remove this one", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What is asked for.
        expected: String,
        /// What the file was made with.
        found: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] CheckpointError),
}

impl Vectors {
    /// Writes all rows, `ROLE.LAYER.POOLING`, f32, with `made_with` as the file's metadata.
    pub fn save(&self, path: &Path, made_with: &BTreeMap<String, String>) -> Result<(), VectorsError> {
        let mut tensors: BTreeMap<String, &Embeddings> = BTreeMap::new();
        for (role, all) in [("questions", &self.questions), ("passages", &self.passages), ("within", &self.within)] {
            tensors.extend(self.readings.iter().zip(all).map(|(reading, rows)| (name(role, reading), rows)));
        }
        let layout = |(name, rows): (&String, &&Embeddings)| TensorLayout {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: vec![rows.len(), rows.width()],
        };
        let layout: Vec<TensorLayout> = tensors.iter().map(layout).collect();
        write_safetensors(path, &layout, made_with, |tensor| {
            Ok::<_, CheckpointError>(Cow::Borrowed(bytemuck::cast_slice(tensors[&tensor.name].values())))
        })?;
        Ok(())
    }

    /// Reads the rows of `readings`. An error unless the file was made with the same.
    pub fn open(
        path: &Path,
        readings: &[Reading],
        made_with: &BTreeMap<String, String>,
    ) -> Result<Vectors, VectorsError> {
        let malformed = |message: String| VectorsError::Malformed { path: path.into(), message };
        let bytes = std::fs::read(path).map_err(|source| VectorsError::Read { path: path.into(), source })?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| malformed(e.to_string()))?;
        for (what, expected) in made_with {
            let found = header.metadata().as_ref().and_then(|m| m.get(what)).map_or("unknown", String::as_str);
            if found != expected {
                let (what, expected, found) = (what.replace('_', " "), expected.clone(), found.into());
                return Err(VectorsError::Other { path: path.into(), what, expected, found });
            }
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let rows = |role: &str, reading: &Reading| -> Result<Embeddings, VectorsError> {
            let name = name(role, reading);
            let tensor = tensors.tensor(&name).map_err(|_| malformed(format!("no {name}")))?;
            let ([_, width], Dtype::F32) = (tensor.shape(), tensor.dtype()) else {
                return Err(malformed(format!("{name} is {:?} {:?}", tensor.dtype(), tensor.shape())));
            };
            let values = tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Embeddings::new(values, *width).map_err(|e: EmbeddingError| malformed(format!("{name}: {e}")))
        };
        let all = |role: &str| readings.iter().map(|reading| rows(role, reading)).collect::<Result<Vec<_>, _>>();
        let within =
            if tensors.names().iter().any(|name| name.starts_with("within.")) { all("within")? } else { vec![] };
        Ok(Vectors { readings: readings.to_vec(), questions: all("questions")?, passages: all("passages")?, within })
    }
}

fn name(role: &str, Reading { layer, pooling }: &Reading) -> String {
    format!("{role}.{layer}.{pooling}")
}
