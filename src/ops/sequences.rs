//! Sequences of different lengths, packed: one token after another, without padding.

use super::check::{Check, U32};
use super::{OpError, Result};
use crate::device::{Device, Tensor};
use std::ops::Range;

/// Where each sequence of a packed batch begins and ends, on the device and on the host.
#[derive(Debug)]
pub struct Sequences {
    offsets: Tensor,
    positions: Tensor,
    host_offsets: Vec<u32>,
    max_length: usize,
}

impl Sequences {
    /// Sequences of these lengths, in tokens, one behind the other.
    ///
    /// An error if there are none, if one is empty, or if the tokens do not fit a u32.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Sequences> {
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
        let mut host_offsets = vec![0];
        let mut positions = Vec::with_capacity(tokens);
        for &n in lengths {
            positions.extend(0..n as u32);
            host_offsets.push(positions.len() as u32);
        }
        Ok(Sequences {
            offsets: Tensor::from_slice(device, &host_offsets, &[host_offsets.len()])?,
            positions: Tensor::from_vec(device, positions, &[tokens])?,
            host_offsets,
            max_length: lengths.iter().copied().max().unwrap_or(0),
        })
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.host_offsets.len() - 1
    }

    /// Number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Tokens of the longest sequence.
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

    /// [`Sequences::offsets`] on the host.
    pub fn host_offsets(&self) -> &[u32] {
        &self.host_offsets
    }

    /// The tokens of each sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        (0..self.count()).map(|i| self.host_offsets[i] as usize..self.host_offsets[i + 1] as usize)
    }

    /// An error unless these are `tokens` tokens on the device of the call.
    pub(crate) fn check(&self, check: &Check, tokens: usize) -> Result {
        check.tensor("sequences' offsets", &self.offsets, &[self.count() + 1], U32)?;
        check.tensor("sequences' positions", &self.positions, &[tokens], U32)
    }
}
