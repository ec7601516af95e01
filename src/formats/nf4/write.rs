//! A model in NF4 as transformers and bitsandbytes save it.

use super::state_name;
use crate::device::{DType, DeviceError, Tensor};
use crate::formats::output::{self, OutputError};
use crate::formats::safetensors::{Checkpoint, CheckpointError, TensorLayout, write_safetensors};
use crate::formats::tokenizer;
use crate::llama::config::{self, ConfigError};
use crate::llama::model::{Model, names};
use crate::ops::linear::Weight;
use crate::ops::nf4::{BLOCK, LEVELS, NESTED_BLOCK, Nf4Tensor, Scales};
use half::bf16;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The weights cannot be read back or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The settings cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Writes a model whose linear weights are in NF4 into a new folder, with the configuration that transformers reads it
/// by, and the tokenizer of `base`. Embedding, norms and head become bf16.
pub fn write_model(folder: &Path, model: &Model, base: &Checkpoint, double: bool) -> Result<(), SaveError> {
    output::create_new(folder)?;
    let parts = parts(model)?;
    let layout: Vec<TensorLayout> = parts.iter().map(|(layout, _)| layout.clone()).collect();
    let data: BTreeMap<&str, &Data> = parts.iter().map(|(layout, data)| (layout.name.as_str(), data)).collect();
    let metadata = BTreeMap::from([("format".into(), "pt".into())]);
    write_safetensors(&folder.join("model.safetensors"), &layout, &metadata, |tensor| {
        Ok::<_, SaveError>(Cow::Owned(data[tensor.name.as_str()].bytes()?))
    })?;
    tokenizer::copy(base.path(), folder)?;
    output::write_file(&folder.join(config::FILE), model.config.stored_as_nf4(double)?.to_json())?;
    Ok(())
}

/// Where a tensor's bytes come from; a device's are fetched one tensor at a time.
enum Data<'a> {
    /// As the tensor is.
    Tensor(&'a Tensor),
    /// Rounded to bf16.
    Rounded(&'a Tensor),
    Bytes(Vec<u8>),
}

impl Data<'_> {
    fn bytes(&self) -> Result<Vec<u8>, DeviceError> {
        match self {
            Data::Bytes(bytes) => Ok(bytes.clone()),
            Data::Tensor(t) if t.dtype() == DType::U8 => t.to_vec(),
            Data::Tensor(t) => Ok(bytemuck::cast_slice(&t.to_vec::<f32>()?).to_vec()),
            Data::Rounded(t) => {
                let rounded: Vec<bf16> = t.to_f32()?.into_iter().map(bf16::from_f32).collect();
                Ok(bytemuck::cast_slice(&rounded).to_vec())
            }
        }
    }
}

type Parts<'a> = Vec<(TensorLayout, Data<'a>)>;

fn parts(model: &Model) -> Result<Parts<'_>, DeviceError> {
    let mut parts = vec![dense(names::EMBEDDING, &model.embedding)];
    parts.extend(model.final_norm.iter().map(|norm| dense(names::FINAL_NORM, norm)));
    parts.extend(model.head.iter().map(|head| dense(names::HEAD, head)));
    for (i, block) in model.blocks.iter().enumerate() {
        parts.push(dense(&names::input_norm(i), &block.input_norm));
        parts.push(dense(&names::post_norm(i), &block.post_norm));
        for (projection, weight) in block.linear.iter() {
            let name = names::linear(i, projection);
            match weight {
                Weight::Dense(weight) => parts.push(dense(&name, weight)),
                Weight::Nf4(weight) => quantised(&name, weight, &mut parts)?,
            }
        }
    }
    Ok(parts)
}

fn dense<'a>(name: &str, tensor: &'a Tensor) -> (TensorLayout, Data<'a>) {
    (TensorLayout::new(name, DType::Bf16, tensor.shape()), Data::Rounded(tensor))
}

/// One weight: its codes, its scales, the code book, and a JSON text that says how they belong together.
fn quantised<'a>(name: &str, weight: &'a Nf4Tensor, parts: &mut Parts<'a>) -> Result<(), DeviceError> {
    let beside = |part: &str| format!("{name}.{part}");
    // Blanks and the order of fields are Python's, so that the same weights give the same bytes.
    let [out, columns] = weight.shape;
    let mut state =
        format!(r#"{{"quant_type": "nf4", "blocksize": {BLOCK}, "dtype": "bfloat16", "shape": [{out}, {columns}]"#);
    parts.push((TensorLayout::new(name, DType::U8, &[weight.codes.len(), 1]), Data::Tensor(&weight.codes)));
    let levels = bytemuck::cast_slice(&LEVELS).to_vec();
    parts.push((TensorLayout::new(beside("quant_map"), DType::F32, &[LEVELS.len()]), Data::Bytes(levels)));
    let mut scale = |part: &str, tensor: &'a Tensor| {
        parts.push((TensorLayout::of(beside(part), tensor), Data::Tensor(tensor)));
    };
    match &weight.scales {
        Scales::Plain { absmax } => scale("absmax", absmax),
        Scales::Double { codes, nested, map, offset } => {
            scale("absmax", codes);
            scale("nested_absmax", nested);
            scale("nested_quant_map", map);
            // As a double, which holds the f32 exactly: Python reads no other.
            let offset: f64 = offset.to_vec::<f32>()?.into_iter().map(f64::from).sum();
            state += &format!(r#", "nested_blocksize": {NESTED_BLOCK}, "nested_dtype": "float32""#);
            state += &format!(r#", "nested_offset": {offset:?}"#);
        }
    }
    let state = (state + "}").into_bytes();
    parts.push((TensorLayout::new(state_name(name, "nf4"), DType::U8, &[state.len()]), Data::Bytes(state)));
    Ok(())
}
