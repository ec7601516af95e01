//! Texts to unit vectors (encode, pool, normalise), or to the states of their tokens.

use super::{EmbeddingError, Embeddings};
use crate::device::{DType, Tensor};
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::encode::Encoder;
use crate::llama::model::Model;
use crate::ops::pooling::{self, Pooling};
use crate::ops::{OpError, cosine};

/// Why texts could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// An op failed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The model's output cannot serve.
    #[error("layer {layer}: {error}")]
    Output {
        /// The layer.
        layer: Layer,
        /// What is wrong with its states.
        error: EmbeddingError,
    },
}

/// Unit embeddings of texts (token ids) at each of `layers`, in one pass over the model.
///
/// `progress` is told how many texts were done each time some are.
pub fn embed(
    model: &Model,
    adapters: Option<&Adapters>,
    texts: &[&[u32]],
    layers: &[Layer],
    pooling: Pooling,
    progress: impl Fn(usize),
) -> Result<Vec<Embeddings>, EmbedError> {
    let hidden = model.config.hidden_size;
    let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
    let mut values: Vec<Vec<f32>> = layers.iter().map(|_| Vec::with_capacity(texts.len() * hidden)).collect();
    let last = layers.iter().copied().max();
    let mut encoder = Encoder::new(model, adapters, longest).map_err(OpError::from)?;
    encoder.run(texts, layers, |batch| {
        let n = batch.sequences.count();
        let zeros = |shape: &[usize]| Tensor::zeros(&model.device, DType::F32, shape);
        let (mut pooled, mut unit, mut norm) = (zeros(&[n, hidden])?, zeros(&[n, hidden])?, zeros(&[n])?);
        pooling::forward(batch.states, batch.sequences, pooling, &mut pooled)?;
        cosine::normalize(&pooled, &mut unit, &mut norm)?;
        let unit = unit.to_vec::<f32>()?;
        for (values, _) in values.iter_mut().zip(layers).filter(|(_, layer)| **layer == batch.layer) {
            values.extend_from_slice(&unit);
        }
        if Some(batch.layer) == last {
            progress(n);
        }
        Ok(())
    })?;
    let checked = |(values, &layer): (Vec<f32>, &Layer)| {
        Embeddings::new(values, hidden).map_err(|error| EmbedError::Output { layer, error })
    };
    values.into_iter().zip(layers).map(checked).collect()
}

/// The residual stream of every token at each of `layers`, `[tokens, hidden]`, widened to f32, text after text.
///
/// `progress` is told how many texts were done each time some are.
pub fn states(
    model: &Model,
    adapters: Option<&Adapters>,
    texts: &[&[u32]],
    layers: &[Layer],
    progress: impl Fn(usize),
) -> crate::ops::Result<Vec<Vec<f32>>> {
    let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
    let mut values: Vec<Vec<f32>> = layers.iter().map(|_| vec![]).collect();
    let last = layers.iter().copied().max();
    Encoder::new(model, adapters, longest)?.run(texts, layers, |batch| {
        let states = batch.states.to_f32()?;
        for (values, _) in values.iter_mut().zip(layers).filter(|(_, layer)| **layer == batch.layer) {
            values.extend_from_slice(&states);
        }
        if Some(batch.layer) == last {
            progress(batch.texts.len());
        }
        Ok(())
    })?;
    Ok(values)
}
