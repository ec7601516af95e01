//! Sequences of different lengths, packed: one token after another, without padding.

use super::check::{Check, U32};
use super::{OpError, Result};
use crate::device::{DType, Device, Staging, Tensor};
use std::ops::Range;

/// Where each sequence of a packed batch begins and ends, on the device and on the host.
#[derive(Debug)]
pub struct Sequences {
    offsets: Tensor,
    positions: Tensor,
    ends: Tensor,
    host_offsets: Vec<u32>,
    max_length: usize,
    padding: usize,
}

/// What sequences are made to look like, so that batches of few shapes recur: tokens behind the last sequence, each alone,
/// and a longest sequence that may be longer than any is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Padded {
    /// Tokens in all.
    pub tokens: usize,
    /// At least the tokens of each sequence.
    pub longest: usize,
}

impl Sequences {
    /// Sequences of these lengths, in tokens, one behind the other.
    ///
    /// An error if there are none, if one is empty, or if the tokens do not fit a u32.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Sequences> {
        let Layout { offsets, positions, ends, max_length } = Layout::new(lengths)?;
        Ok(Sequences {
            padding: 0,
            offsets: Tensor::from_slice(device, &offsets, &[offsets.len()])?,
            positions: Tensor::from_slice(device, &positions, &[positions.len()])?,
            ends: Tensor::from_slice(device, &ends, &[ends.len()])?,
            host_offsets: offsets,
            max_length,
        })
    }

    /// Room for up to `count` sequences of up to `tokens` tokens together. There are none until [`Sequences::set`].
    pub fn with_capacity(device: &Device, count: usize, tokens: usize) -> Result<Sequences> {
        Ok(Sequences {
            offsets: Tensor::zeros(device, DType::U32, &[count + 1])?,
            positions: Tensor::zeros(device, DType::U32, &[tokens])?,
            ends: Tensor::zeros(device, DType::U32, &[tokens])?,
            host_offsets: vec![0],
            max_length: 0,
            padding: 0,
        })
    }

    /// Becomes the sequences of these lengths, for what is launched from now on, without waiting for the device.
    ///
    /// The errors of [`Sequences::new`], and one if there is no room.
    pub fn set(&mut self, staging: &mut Staging, lengths: &[usize]) -> Result {
        self.set_padded(staging, lengths, None)
    }

    /// The same, padded. What sequences [count](Sequences::count) does not change: no pooling sees the tokens behind them.
    pub fn set_padded(&mut self, staging: &mut Staging, lengths: &[usize], padded: Option<Padded>) -> Result {
        let mut layout = Layout::new(lengths)?;
        self.padding = padded.map_or(Ok(0), |padded| layout.pad(padded))?;
        let Layout { offsets, positions, ends, max_length } = layout;
        self.offsets.set_rows(offsets.len())?;
        self.positions.set_rows(positions.len())?;
        self.ends.set_rows(ends.len())?;
        staging.write(&offsets, &mut self.offsets)?;
        staging.write(&positions, &mut self.positions)?;
        staging.write(&ends, &mut self.ends)?;
        (self.host_offsets, self.max_length) = (offsets, max_length);
        Ok(())
    }

    /// Bytes of each of the tensors that [`Sequences::set`] stages.
    pub fn staged_bytes(count: usize, tokens: usize) -> [usize; 3] {
        [count + 1, tokens, tokens].map(|n| n * size_of::<u32>())
    }

    /// Those, in the order that they are staged in.
    pub(crate) fn staged_mut(&mut self) -> [&mut Tensor; 3] {
        [&mut self.offsets, &mut self.positions, &mut self.ends]
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.host_offsets.len() - 1
    }

    /// Number of tokens of all sequences, and of the padding.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Tokens of the longest sequence; of padded ones at least.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// `[count + 1]`, u32: sequence i holds tokens `offsets[i]..offsets[i + 1]`.
    pub fn offsets(&self) -> &Tensor {
        &self.offsets
    }

    /// `[tokens]`, u32: each token's place in its sequence, from 0.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// `[tokens]`, u32: the end of each token's sequence, as a token of the batch.
    pub fn ends(&self) -> &Tensor {
        &self.ends
    }

    /// [`Sequences::offsets`] on the host.
    pub fn host_offsets(&self) -> &[u32] {
        &self.host_offsets
    }

    /// The tokens of each sequence, then each token of the padding.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let sequences = self.host_offsets.windows(2).map(|w| w[0] as usize..w[1] as usize);
        sequences.chain((self.tokens() - self.padding..self.tokens()).map(|t| t..t + 1))
    }

    /// An error unless these are `tokens` tokens on the device of the call.
    pub(crate) fn check(&self, check: &Check, tokens: usize) -> Result {
        check.tensor("sequences' offsets", &self.offsets, &[self.count() + 1], U32)?;
        check.tensor("sequences' positions", &self.positions, &[tokens], U32)?;
        check.tensor("sequences' ends", &self.ends, &[tokens], U32)
    }
}

/// What a batch's tensors hold.
struct Layout {
    offsets: Vec<u32>,
    positions: Vec<u32>,
    ends: Vec<u32>,
    max_length: usize,
}

impl Layout {
    fn new(lengths: &[usize]) -> Result<Layout> {
        let refuse = |message| Err(OpError::Value { op: "sequences", message });
        if lengths.is_empty() {
            return refuse("there are none".into());
        }
        if let Some(i) = lengths.iter().position(|&n| n == 0) {
            return refuse(format!("sequence {i} has no tokens"));
        }
        let tokens = lengths.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        if u32::try_from(tokens).is_err() {
            return refuse(format!("{tokens} tokens in one batch, at most {} can be packed", u32::MAX));
        }
        let mut offsets = vec![0];
        let (mut positions, mut ends) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        for &n in lengths {
            positions.extend(0..n as u32);
            ends.resize(positions.len(), positions.len() as u32);
            offsets.push(positions.len() as u32);
        }
        Ok(Layout { offsets, positions, ends, max_length: lengths.iter().copied().max().unwrap_or(0) })
    }

    /// Adds tokens that are sequences of their own, and returns how many.
    fn pad(&mut self, padded: Padded) -> Result<usize> {
        let tokens = self.positions.len();
        if padded.tokens < tokens || padded.longest < self.max_length || u32::try_from(padded.tokens).is_err() {
            let message = format!("{tokens} tokens, {} the longest, cannot be padded to {padded:?}", self.max_length);
            return Err(OpError::Value { op: "sequences", message });
        }
        self.positions.resize(padded.tokens, 0);
        self.ends.extend(tokens as u32 + 1..=padded.tokens as u32);
        self.max_length = padded.longest;
        Ok(padded.tokens - tokens)
    }
}
