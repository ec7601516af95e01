//! Texts to unit vectors (encode, pool, normalise), or to the states of their tokens.

use super::{EmbeddingError, Embeddings};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::encode::{Encoded, Encoder, batches};
use crate::llama::model::Model;
use crate::ops::pooling::{self, Pooling};
use crate::ops::{OpError, cosine};

/// Why texts could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// An op failed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model's output cannot serve.
    #[error("layer {layer}: {error}")]
    Output {
        /// The layer.
        layer: Layer,
        /// What is wrong with its states.
        error: EmbeddingError,
    },
}

/// Unit embeddings of texts (token ids) at each of `layers`, in one pass over the model that stops above the last of them.
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
    let budget = Encoder::budget(&model.device, texts);
    let most = batches(texts, budget).into_iter().map(|batch| batch.len()).max().unwrap_or(0);
    let mut pooled = Pooled::new(&model.device, hidden, layers, most, texts.len())?;
    let last = layers.iter().copied().max();
    let mut encoder = Encoder::with_budget(model, adapters, budget)?;
    encoder.run(texts, layers, |batch| {
        pooled.add(&batch, pooling)?;
        if Some(batch.layer) == last {
            progress(batch.texts.len());
        }
        Ok(())
    })?;
    let checked = |(values, &layer): (Vec<f32>, &Layer)| {
        Embeddings::new(values, hidden).map_err(|error| EmbedError::Output { layer, error })
    };
    pooled.into_values()?.into_iter().zip(layers).map(checked).collect()
}

/// Vectors of texts, gathered on the device and fetched many at a time, so that the host does not wait for each batch.
struct Pooled<'a> {
    /// A batch's vectors, before and behind the division by their norms.
    sums: Tensor,
    units: Tensor,
    norms: Tensor,
    layers: Vec<(&'a Layer, Gathered)>,
}

/// The vectors of one layer.
struct Gathered {
    /// `[room, hidden]`, of which the first are in use.
    rows: Tensor,
    used: usize,
    values: Vec<f32>,
}

impl<'a> Pooled<'a> {
    /// Bytes on the device for vectors that wait to be fetched.
    const ROOM: usize = 256 << 20;

    /// For batches of up to `most` of `texts` texts.
    fn new(
        device: &Device,
        hidden: usize,
        layers: &'a [Layer],
        most: usize,
        texts: usize,
    ) -> Result<Pooled<'a>, DeviceError> {
        let matrix = |rows: usize| Tensor::uninitialized(device, DType::F32, &[rows, hidden]);
        let room = (Self::ROOM / (size_of::<f32>() * hidden * layers.len().max(1))).clamp(most, texts.max(most));
        let gathered = |layer| {
            let values = Vec::with_capacity(texts * hidden);
            Ok((layer, Gathered { rows: matrix(room)?, used: 0, values }))
        };
        Ok(Pooled {
            sums: matrix(most)?,
            units: matrix(most)?,
            norms: Tensor::uninitialized(device, DType::F32, &[most])?,
            layers: layers.iter().map(gathered).collect::<Result<_, DeviceError>>()?,
        })
    }

    fn add(&mut self, batch: &Encoded, pooling: Pooling) -> crate::ops::Result {
        let Pooled { sums, units, norms, layers } = self;
        let count = batch.sequences.count();
        [&mut *sums, units, norms].into_iter().try_for_each(|t| t.set_rows(count))?;
        pooling::forward(batch.states, batch.sequences, pooling, sums)?;
        cosine::normalize(sums, units, norms)?;
        for (_, gathered) in layers.iter_mut().filter(|(layer, _)| **layer == batch.layer) {
            gathered.push(units, count)?;
        }
        Ok(())
    }

    fn into_values(mut self) -> Result<Vec<Vec<f32>>, OpError> {
        self.layers.iter_mut().try_for_each(|(_, gathered)| gathered.fetch())?;
        Ok(self.layers.into_iter().map(|(_, gathered)| gathered.values).collect())
    }
}

impl Gathered {
    fn push(&mut self, units: &Tensor, count: usize) -> Result<(), DeviceError> {
        if self.used + count > self.rows.rows() {
            self.fetch()?;
        }
        self.rows.copy_rows(self.used, units, 0, count)?;
        self.used += count;
        Ok(())
    }

    /// Moves what is in use to the host.
    fn fetch(&mut self) -> Result<(), DeviceError> {
        let room = self.rows.rows();
        self.rows.set_rows(self.used)?;
        self.values.extend(self.rows.to_vec::<f32>()?);
        self.rows.set_rows(room)?;
        self.used = 0;
        Ok(())
    }
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
