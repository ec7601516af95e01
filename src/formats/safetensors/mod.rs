//! Weights in safetensors files.
//!
//! [`Checkpoint`] reads the headers of all files of a folder when it is opened, and the data of a tensor when the
//! tensor is asked for, so that part of a model costs part of the reading.

mod error;
mod shards;
mod write;

pub use error::CheckpointError;
pub use shards::INDEX;
pub use write::{TensorLayout, cut, shard_name, write_folder, write_index, write_safetensors};

use crate::device::{DType, Device, Tensor};
use crate::ops::Float;
use crate::ops::convert::{self, Stored};
use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use shards::Shard;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// Elements that one task reads and converts.
const CHUNK: usize = 1 << 20;
/// Bytes of each tensor that go into a checkpoint's identity.
const SAMPLE: usize = 256;

/// A tensor as a file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    shard: usize,
    /// Offset and length of the data in bytes.
    start: usize,
    bytes: usize,
}

impl TensorInfo {
    /// Bytes of the data.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The tensors of a folder of safetensors files, or of one file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Checkpoint {
    /// Reads the headers of every `*.safetensors` in a folder.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        Checkpoint::from_shards(folder, shards::find(folder)?)
    }

    /// Reads the headers of some files of a folder, and keeps the tensors whose names `is_kept` likes: of a model of which
    /// only a part is here.
    pub fn open_files(folder: &Path, files: &[String], is_kept: impl Fn(&str) -> bool) -> Result<Checkpoint> {
        let paths = files.iter().map(|file| shards::inside(folder, file)).collect::<Result<_>>()?;
        let mut checkpoint = Checkpoint::from_shards(folder, paths)?;
        checkpoint.tensors.retain(|name, _| is_kept(name));
        Ok(checkpoint)
    }

    /// Reads the header of one file.
    pub fn open_file(path: &Path) -> Result<Checkpoint> {
        Checkpoint::from_shards(path, vec![path.into()])
    }

    fn from_shards(path: &Path, files: Vec<PathBuf>) -> Result<Checkpoint> {
        let shards = files.into_iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let mut tensors: BTreeMap<String, TensorInfo> = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            // In order, so that of several that are wrong it is the same one each time.
            for (tensor, info) in BTreeMap::from_iter(shard.metadata.tensors()) {
                let (start, end) = info.data_offsets;
                let info =
                    TensorInfo { dtype: info.dtype, shape: info.shape.clone(), shard: i, start, bytes: end - start };
                if let Some(other) = tensors.insert(tensor.clone(), info) {
                    let (first, second) = (shards[other.shard].path.clone(), shard.path.clone());
                    return Err(CheckpointError::Duplicate { tensor, first, second });
                }
            }
        }
        Ok(Checkpoint { path: path.into(), shards, tensors })
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// True where a file holds the tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Type and shape of a tensor.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::NoTensor {
            path: self.path.clone(),
            tensor: name.into(),
            count: self.tensors.len(),
            example: self.tensors.keys().next().cloned().unwrap_or_default(),
        })
    }

    /// An error unless the tensor has this shape.
    pub fn expect_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let info = self.tensor(name)?;
        if info.shape == expected { Ok(()) } else { Err(self.shape_error(name, expected, &info.shape)) }
    }

    /// A tensor's values as f32, from f32, f16 or bf16; all must be finite.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.read_float(name)
    }

    /// A tensor on a device, its values converted from f32, f16 or bf16 to `dtype` (f32 or bf16), rounded to
    /// nearest; all must be finite.
    pub fn read(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = &self.tensor(name)?.shape;
        match dtype {
            DType::F32 => Ok(Tensor::from_vec(device, self.read_float::<f32>(name)?, shape)?),
            DType::Bf16 => Ok(Tensor::from_vec(device, self.read_float::<bf16>(name)?, shape)?),
            other => Err(CheckpointError::Target(other)),
        }
    }

    /// A tensor's bytes as they are stored.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.tensor(name)?;
        let mut bytes = vec![0; info.bytes];
        self.shards[info.shard].read(info.start, &mut bytes)?;
        Ok(bytes)
    }

    /// SHA-256, in hexadecimal, over name, type, shape and first bytes of every tensor. Cheap, and enough to tell
    /// two fine-tunes of one architecture apart; it does not depend on how the tensors are spread over files.
    pub fn identity(&self) -> Result<String> {
        let whole = self.identities(|_| String::new())?;
        Ok(whole.into_values().next().unwrap_or_else(|| format!("{:x}", Sha256::digest([]))))
    }

    /// The same of each part: of the tensors to whose names `part` gives one name.
    pub fn identities(&self, part: impl Fn(&str) -> String) -> Result<BTreeMap<String, String>> {
        let mut hashes: BTreeMap<String, Sha256> = BTreeMap::new();
        let mut sample = [0; SAMPLE];
        for (name, info) in &self.tensors {
            let sample = &mut sample[..info.bytes.min(SAMPLE)];
            self.shards[info.shard].read(info.start, sample)?;
            let hash = hashes.entry(part(name)).or_default();
            hash.update(format!("{name} {} {:?} ", info.dtype, info.shape));
            hash.update(sample);
        }
        Ok(hashes.into_iter().map(|(part, hash)| (part, format!("{:x}", hash.finalize()))).collect())
    }

    pub(super) fn shape_error(&self, name: &str, expected: &[usize], found: &[usize]) -> CheckpointError {
        let (path, tensor) = (self.file_with(name), name.into());
        CheckpointError::Shape { path, tensor, expected: expected.into(), found: found.into() }
    }

    pub(super) fn quantised_error(&self, name: &str, message: String) -> CheckpointError {
        CheckpointError::Quantised { path: self.file_with(name), tensor: name.into(), message }
    }

    /// The file that holds a tensor, or the folder where none does.
    fn file_with(&self, name: &str) -> PathBuf {
        self.tensors.get(name).map_or_else(|| self.path.clone(), |info| self.file_of(info))
    }

    /// The file that holds a tensor.
    fn file_of(&self, info: &TensorInfo) -> PathBuf {
        self.shards[info.shard].path.clone()
    }

    /// Where a tensor's bytes lie, to read them piece by piece.
    pub fn extent(&self, name: &str) -> Result<Extent<'_>> {
        let info = self.tensor(name)?;
        Ok(Extent { shard: &self.shards[info.shard], start: info.start, bytes: info.bytes })
    }

    /// Where a tensor of floats lies, to read it piece by piece.
    pub fn floats(&self, name: &str) -> Result<Floats<'_>> {
        let info = self.tensor(name)?;
        let stored = match info.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::Bf16,
            found => {
                let (path, found) = (self.file_of(info), found.to_string());
                return Err(CheckpointError::DType { path, tensor: name.into(), expected: "F32, F16 or BF16", found });
            }
        };
        Ok(Floats { extent: self.extent(name)?, count: info.bytes / stored.size(), stored })
    }

    fn read_float<T: Float>(&self, name: &str) -> Result<Vec<T>> {
        let floats = self.floats(name)?;
        let stored = floats.stored;
        let as_stored = matches!((stored, T::DTYPE), (Stored::F32, DType::F32) | (Stored::Bf16, DType::Bf16));
        let mut values = vec![T::zeroed(); floats.count];
        let chunks = values.par_chunks_mut(CHUNK).enumerate();
        let failed = chunks.map_init(Vec::new, |bytes, (i, out)| {
            let found = if as_stored {
                floats.read(i * CHUNK, bytemuck::cast_slice_mut(out))?;
                convert::cpu::first_not_finite(out)
            } else {
                bytes.resize(out.len() * stored.size(), 0);
                floats.read(i * CHUNK, bytes)?;
                convert::cpu::convert(stored, bytes, out)
            };
            match found {
                None => Ok(()),
                Some(at) => Err(self.not_finite(name, i * CHUNK + at, out[at].to_f32(), T::DTYPE)),
            }
        });
        failed.find_map_first(Result::err).map_or(Ok(values), Err)
    }

    /// The error for an element that is not finite as `dtype`, found by who read it elsewhere.
    pub(super) fn not_finite_at(&self, name: &str, flat: usize, dtype: DType) -> CheckpointError {
        let value = || -> Result<f32> {
            let floats = self.floats(name)?;
            let (mut bytes, mut value) = (vec![0; floats.stored.size()], [0.0f32]);
            floats.read(flat, &mut bytes)?;
            convert::cpu::convert(floats.stored, &bytes, &mut value);
            Ok(if dtype == DType::Bf16 { bf16::from_f32(value[0]).to_f32() } else { value[0] })
        };
        value().map_or_else(|e| e, |value| self.not_finite(name, flat, value, dtype))
    }

    fn not_finite(&self, name: &str, flat: usize, value: f32, dtype: DType) -> CheckpointError {
        let mut rest = flat;
        let shape = self.tensors.get(name).map(|info| info.shape.as_slice()).unwrap_or_default();
        let mut index: Vec<usize> = shape.iter().rev().map(|&n| (rest % n, rest /= n).0).collect();
        index.reverse();
        CheckpointError::NotFinite { path: self.file_with(name), tensor: name.into(), index, value, dtype }
    }
}

/// Where a tensor lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    shard: &'a Shard,
    start: usize,
    /// Its bytes.
    pub bytes: usize,
}

impl Extent<'_> {
    /// Fills `to` from byte `at` on. A file that has become shorter since it was opened is an error.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        self.shard.read(self.start + at, to)
    }
}

/// Where a tensor of floats lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct Floats<'a> {
    /// Its place.
    pub extent: Extent<'a>,
    /// Elements.
    pub count: usize,
    /// Their type.
    pub stored: Stored,
}

impl Floats<'_> {
    /// Fills `bytes` from element `first` on.
    fn read(&self, first: usize, bytes: &mut [u8]) -> Result<()> {
        self.extent.read(first * self.stored.size(), bytes)
    }
}
