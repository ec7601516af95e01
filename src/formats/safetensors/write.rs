use super::{CheckpointError, INDEX, Result};
use crate::device::{DType, Tensor};
use crate::formats::output::{self, NewFile, OutputError};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Name, type and shape of a tensor to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorLayout {
    /// Of `dtype`, the device's name for the type.
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[usize]) -> TensorLayout {
        let dtype = match dtype {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::U32 => Dtype::U32,
            DType::U8 => Dtype::U8,
        };
        TensorLayout { name: name.into(), dtype, shape: shape.into() }
    }

    /// As a tensor is.
    pub fn of(name: impl Into<String>, tensor: &Tensor) -> TensorLayout {
        TensorLayout::new(name, tensor.dtype(), tensor.shape())
    }

    /// Bytes of the data.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes a safetensors file: whole, or not at all.
///
/// `data` is asked for the little-endian bytes of one tensor after another, so that a model on a GPU is never on
/// the host whole. Tensors lie in the order of their alignment, then of `layout`; the same input gives the same
/// bytes. transformers and PEFT want `metadata` to hold `format: pt`.
pub fn write_safetensors<'a, E: From<CheckpointError>>(
    path: &Path,
    layout: &[TensorLayout],
    metadata: &BTreeMap<String, String>,
    mut data: impl FnMut(&TensorLayout) -> Result<Cow<'a, [u8]>, E>,
) -> Result<(), E> {
    let failed = |source| E::from(OutputError::Write { path: path.into(), source }.into());
    let mut layout: Vec<&TensorLayout> = layout.iter().collect();
    layout.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    let mut file = NewFile::create(path).map_err(CheckpointError::from)?;
    let header = header(&layout, metadata);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    for tensor in layout {
        let bytes = data(tensor)?;
        if bytes.len() != tensor.bytes() {
            let (expected, found) = (tensor.bytes(), bytes.len());
            let tensor = tensor.name.clone();
            return Err(CheckpointError::Given { path: path.into(), tensor, expected, found }.into());
        }
        file.write_all(&bytes).map_err(failed)?;
    }
    Ok(file.commit().map_err(CheckpointError::from)?)
}

/// The name of one of several files, as transformers gives it.
pub fn shard_name(i: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", i + 1)
}

/// Runs of tensors that fit into a file of `most` bytes each; a file holds one at least.
pub fn cut(tensors: impl Iterator<Item = TensorLayout>, most: usize) -> Vec<Vec<TensorLayout>> {
    let mut shards: Vec<Vec<TensorLayout>> = vec![];
    let mut bytes = 0;
    for tensor in tensors {
        let more = tensor.bytes();
        match shards.last_mut().filter(|_| bytes + more <= most) {
            Some(shard) => shard.push(tensor),
            None => {
                shards.push(vec![tensor]);
                bytes = 0;
            }
        }
        bytes += more;
    }
    shards
}

/// Writes the index of a model in several files.
pub fn write_index(folder: &Path, shards: &[Vec<TensorLayout>]) -> Result<(), OutputError> {
    let files = shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |t| (t.name.clone(), i)));
    let weight_map: BTreeMap<String, String> = files.map(|(name, i)| (name, shard_name(i, shards.len()))).collect();
    let total: usize = shards.iter().flatten().map(TensorLayout::bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    output::write_file(&folder.join(INDEX), format!("{index:#}\n"))
}

/// Writes a model's weights into a folder that exists, as transformers does: one file, or where they take more than `most`
/// bytes several and an index. See [`write_safetensors`].
pub fn write_folder<'a, E: From<CheckpointError>>(
    folder: &Path,
    layout: Vec<TensorLayout>,
    most: usize,
    mut data: impl FnMut(&TensorLayout) -> Result<Cow<'a, [u8]>, E>,
) -> Result<(), E> {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let shards = cut(layout.into_iter(), most);
    if let [all] = &shards[..] {
        return write_safetensors(&folder.join("model.safetensors"), all, &metadata, data);
    }
    for (i, shard) in shards.iter().enumerate() {
        write_safetensors(&folder.join(shard_name(i, shards.len())), shard, &metadata, &mut data)?;
    }
    Ok(write_index(folder, &shards).map_err(CheckpointError::from)?)
}

/// The JSON header, padded with blanks so that the data begins at a multiple of 8 bytes. Made here rather than by the
/// safetensors crate, whose hash map would shuffle the metadata from run to run.
fn header(layout: &[&TensorLayout], metadata: &BTreeMap<String, String>) -> String {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut offset = 0;
    for tensor in layout {
        let data_offsets = (offset, offset + tensor.bytes());
        offset = data_offsets.1;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets };
        header.insert(tensor.name.clone(), json!(info));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    let padding = header.len().next_multiple_of(8) - header.len();
    header.push_str(&" ".repeat(padding));
    header
}
