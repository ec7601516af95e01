//! Texts to unit vectors (encode, pool, normalise), or to the states of their tokens.

use super::{EmbeddingError, Embeddings};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::llama::encode::{Encoded, Encoder, batches};
use crate::llama::model::Model;
use crate::ops::pooling::{self, Pooling};
use crate::ops::sequences::Sequences;
use crate::ops::{OpError, cosine};
use std::ops::Range;

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

/// Where states are read, and how those of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The layer.
    pub layer: Layer,
    /// The pooling.
    pub pooling: Pooling,
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
    let readings: Vec<Reading> = layers.iter().map(|&layer| Reading { layer, pooling }).collect();
    embed_all(model, adapters, texts, None, &readings, progress)
}

/// Unit embeddings under each of `readings`, in one pass over the model: a row a text, or with `stretches`, the tokens that
/// each text falls into one after the other, a row a stretch.
pub fn embed_all(
    model: &Model,
    adapters: Option<&Adapters>,
    texts: &[&[u32]],
    stretches: Option<&[Vec<usize>]>,
    readings: &[Reading],
    progress: impl Fn(usize),
) -> Result<Vec<Embeddings>, EmbedError> {
    let budget = Encoder::budget(&model.device, texts);
    let rows = |texts: Range<usize>| match stretches {
        Some(of) => of[texts].iter().map(Vec::len).sum(),
        None => texts.len(),
    };
    let most = batches(texts, budget).into_iter().map(rows).max().unwrap_or(0);
    let hidden = model.config.hidden_size;
    let mut gathered = Gathered::new(&model.device, hidden, readings.len(), most, rows(0..texts.len()))?;
    let layers: Vec<Layer> = readings.iter().map(|r| r.layer).collect();
    let visit = |batch: Encoded| {
        let cut = match stretches {
            Some(of) => Some(Sequences::new(&model.device, &of[batch.texts.clone()].concat())?),
            None => None,
        };
        for (place, reading) in readings.iter().enumerate().filter(|(_, r)| r.layer == batch.layer) {
            match &cut {
                None => gathered.add(place, batch.states, batch.sequences, reading.pooling)?,
                Some(cut) => gathered.add(place, batch.states, cut, inside(reading.pooling))?,
            }
        }
        Ok(())
    };
    Encoder::with_budget(model, adapters, budget)?
        .run_with_progress(texts, &layers, visit, |done| progress(done.texts))?;
    let checked = |(values, reading): (Vec<f32>, &Reading)| {
        Embeddings::new(values, hidden).map_err(|error| EmbedError::Output { layer: reading.layer, error })
    };
    gathered.into_values()?.into_iter().zip(readings).map(checked).collect()
}

/// How a stretch inside a text is pooled: only the text has a sink.
fn inside(pooling: Pooling) -> Pooling {
    match pooling {
        Pooling::Mean | Pooling::MeanNoSink => Pooling::Mean,
        Pooling::Last => Pooling::Last,
    }
}

/// Vectors under several readings, gathered on the device and fetched many at a time, so that the host does not wait for
/// each batch.
struct Gathered {
    /// A batch's vectors, before and behind the division by their norms.
    sums: Tensor,
    units: Tensor,
    norms: Tensor,
    readings: Vec<Rows>,
}

/// The vectors under one reading.
struct Rows {
    /// `[room, hidden]`, of which the first are in use.
    waiting: Tensor,
    used: usize,
    values: Vec<f32>,
}

impl Gathered {
    /// Bytes on the device for vectors that wait to be fetched, unless one batch has more.
    const ROOM: usize = 256 << 20;

    /// For batches of up to `most` rows, of `all`.
    fn new(device: &Device, hidden: usize, readings: usize, most: usize, all: usize) -> Result<Gathered, DeviceError> {
        let matrix = |rows: usize| Tensor::uninitialized(device, DType::F32, &[rows, hidden]);
        let room = Gathered::room(hidden, readings, most, all);
        let rows = |_| Ok(Rows { waiting: matrix(room)?, used: 0, values: Vec::with_capacity(all * hidden) });
        Ok(Gathered {
            sums: matrix(most)?,
            units: matrix(most)?,
            norms: Tensor::uninitialized(device, DType::F32, &[most])?,
            readings: (0..readings).map(rows).collect::<Result<_, DeviceError>>()?,
        })
    }

    fn room(hidden: usize, readings: usize, most: usize, all: usize) -> usize {
        (Self::ROOM / (size_of::<f32>() * hidden * readings.max(1))).clamp(most, all.max(most))
    }

    /// Bytes of the device memory that these take.
    fn bytes(hidden: usize, readings: usize, most: usize, all: usize) -> usize {
        let rows = 2 * most + readings * Gathered::room(hidden, readings, most, all);
        (rows * hidden + most) * size_of::<f32>()
    }

    fn add(&mut self, place: usize, states: &Tensor, cut: &Sequences, pooling: Pooling) -> crate::ops::Result {
        let Gathered { sums, units, norms, readings } = self;
        [&mut *sums, units, norms].into_iter().try_for_each(|t| t.set_rows(cut.count()))?;
        pooling::forward(states, cut, pooling, sums)?;
        cosine::normalize(sums, units, norms)?;
        Ok(readings.get_mut(place).map_or(Ok(()), |rows| rows.push(units))?)
    }

    fn into_values(mut self) -> Result<Vec<Vec<f32>>, DeviceError> {
        self.readings.iter_mut().try_for_each(Rows::fetch)?;
        Ok(self.readings.into_iter().map(|rows| rows.values).collect())
    }
}

impl Rows {
    fn push(&mut self, rows: &Tensor) -> Result<(), DeviceError> {
        if self.used + rows.rows() > self.waiting.rows() {
            self.fetch()?;
        }
        self.waiting.copy_rows(self.used, rows, 0, rows.rows())?;
        self.used += rows.rows();
        Ok(())
    }

    /// Moves what waits to the host.
    fn fetch(&mut self) -> Result<(), DeviceError> {
        let room = self.waiting.rows();
        self.waiting.set_rows(self.used)?;
        self.values.extend(self.waiting.to_vec::<f32>()?);
        self.waiting.set_rows(room)?;
        self.used = 0;
        Ok(())
    }
}

/// Bytes of the device memory that [`embed`] takes beside the model's, by use.
pub fn memory(
    config: &Config,
    compute: DType,
    rank: usize,
    device: &Device,
    texts: &[&[u32]],
    readings: usize,
) -> [(&'static str, usize); 2] {
    let budget = Encoder::budget(device, texts);
    let most = batches(texts, budget).into_iter().map(|batch| batch.len()).max().unwrap_or(0);
    memory_for(config, compute, rank, budget, most, texts.len(), readings)
}

/// The same for `texts` texts, of which a batch of up to `budget` tokens has up to `most`.
pub fn memory_for(
    config: &Config,
    compute: DType,
    rank: usize,
    budget: usize,
    most: usize,
    texts: usize,
    readings: usize,
) -> [(&'static str, usize); 2] {
    [
        ("states and activations", Encoder::bytes(config, compute, budget, rank)),
        ("vectors", Gathered::bytes(config.hidden_size, readings, most, texts)),
    ]
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
