//! What a run leaves behind: an adapter as PEFT writes it, or a model as Hugging Face does.

use super::settings::Settings;
use crate::device::{DType, DeviceError};
use crate::formats::kiungo_json::{Identity, Record};
use crate::formats::output::{self, NewFolder};
use crate::formats::peft::{self, AdapterConfig, Factors};
use crate::formats::safetensors::{Checkpoint, TensorLayout, write_safetensors};
use crate::formats::tokenizer;
use crate::llama::adapters::Adapters;
use crate::llama::config;
use crate::llama::model::{Model, names};
use crate::ops::linear::Weight;
use anyhow::Result;
use half::bf16;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// What the weights of a run were trained on.
pub fn record(base_model: &str, base_identity: Identity, settings: &Settings) -> Record {
    Record {
        version: env!("CARGO_PKG_VERSION").into(),
        base_model: base_model.into(),
        base_identity,
        base: settings.base.to_string(),
        method: settings.method.to_string(),
        target: settings.target.to_string(),
        training_pooling: settings.training_pooling.to_string(),
        pooling: settings.pooling.to_string(),
        bos: settings.bos,
        max_length: settings.max_length,
        seed: settings.seed,
    }
}

/// Writes an adapter in PEFT's layout, with a record of what it was trained on beside it.
pub fn adapter(folder: &Path, adapters: &Adapters, record: &Record, settings: &Settings) -> Result<()> {
    let new = NewFolder::create(folder)?;
    let mut factors = BTreeMap::new();
    for (&block, projections) in &adapters.blocks {
        for (projection, lora) in projections.iter() {
            if let Some(lora) = lora {
                factors.insert((block, projection), Factors { a: lora.a.to_vec()?, b: lora.b.to_vec()? });
            }
        }
    }
    let config = AdapterConfig {
        base_model: Some(record.base_model.clone()),
        rank: adapters.rank,
        alpha: settings.alpha.into(),
        dropout: settings.dropout,
        rslora: false,
        unknown: vec![],
    };
    peft::Adapter { config, factors }.write(new.path())?;
    record.write(new.path())?;
    Ok(new.commit()?)
}

/// Writes all weights as bf16, those that did not learn from `base`, with its configuration and tokenizer.
pub fn model(folder: &Path, model: &Model, base: &Checkpoint, record: &Record) -> Result<()> {
    let new = NewFolder::create(folder)?;
    let loaded = loaded_weights(model)?;
    let layout: Vec<_> = base.tensors().map(|(name, t)| TensorLayout::new(name, DType::Bf16, &t.shape)).collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(&new.path().join("model.safetensors"), &layout, &metadata, |tensor| {
        let values = match loaded.get(&tensor.name) {
            Some(read) => read()?,
            None => base.read_f32(&tensor.name)?,
        };
        let rounded: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        anyhow::Ok(Cow::Owned(bytemuck::cast_slice(&rounded).to_vec()))
    })?;
    let stored = model.config.stored_as("bfloat16")?;
    output::write_file(&new.path().join(config::FILE), stored.to_json())?;
    tokenizer::copy(base.path(), new.path())?;
    record.write(new.path())?;
    Ok(new.commit()?)
}

type Read<'a> = Box<dyn Fn() -> Result<Vec<f32>, DeviceError> + 'a>;

/// The weights that were read, by their names in the checkpoint.
fn loaded_weights(model: &Model) -> Result<BTreeMap<String, Read<'_>>> {
    let mut loaded: BTreeMap<String, Read> = BTreeMap::new();
    loaded.insert(names::EMBEDDING.into(), Box::new(|| model.embedding.to_f32()));
    if let Some(norm) = &model.final_norm {
        loaded.insert(names::FINAL_NORM.into(), Box::new(|| norm.to_f32()));
    }
    for (i, block) in model.blocks.iter().enumerate() {
        loaded.insert(names::input_norm(i), Box::new(|| block.input_norm.to_f32()));
        loaded.insert(names::post_norm(i), Box::new(|| block.post_norm.to_f32()));
        for (projection, weight) in block.linear.iter() {
            if let Weight::Dense(weight) = weight {
                loaded.insert(names::linear(i, projection), Box::new(|| weight.to_f32()));
            }
        }
    }
    Ok(loaded)
}
