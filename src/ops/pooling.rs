//! One vector a sequence, from the states of its tokens.
//!
//! # Cost and error
//!
//! - Cost: reads (backward: writes) the kept rows, `b * tokens * hidden` bytes, and writes `4 * sequences *
//!   hidden`; an addition an element.
//! - Error: 1e-6; a GPU within 1e-7 of the CPU.

use super::check::{Check, F32, FLOAT, U32};
use super::float::with_float;
use super::params;
use super::sequences::Sequences;
use crate::device::{Device, Tensor};

/// Which tokens of a sequence its vector is the mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// All.
    Mean,
    /// All but the first, the attention sink, whose large and nearly constant state would swamp the mean. A lone
    /// token is kept.
    #[default]
    MeanNoSink,
    /// The last alone.
    Last,
}

impl Pooling {
    /// What kernels call it.
    pub(super) fn number(self) -> u32 {
        match self {
            Pooling::Mean => params::KIUNGO_POOLING_MEAN,
            Pooling::MeanNoSink => params::KIUNGO_POOLING_MEAN_NO_SINK,
            Pooling::Last => params::KIUNGO_POOLING_LAST,
        }
    }
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::MeanNoSink => "mean-no-sink",
            Pooling::Last => "last",
        })
    }
}

impl std::str::FromStr for Pooling {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "mean" => Ok(Pooling::Mean),
            "mean-no-sink" => Ok(Pooling::MeanNoSink),
            "last" => Ok(Pooling::Last),
            _ => Err(format!("unknown pooling `{s}`, expected mean, mean-no-sink or last")),
        }
    }
}

/// `y[i, :]` = mean of the rows of `h` that `pooling` keeps of sequence i.
///
/// - `h`: `[tokens, hidden]`, f32 or bf16, tokens as `sequences` packs them
/// - `y`: `[sequences, hidden]`, f32
pub fn forward(h: &Tensor, sequences: &Sequences, pooling: Pooling, y: &mut Tensor) -> super::Result {
    let check = Check::new("pooling", h);
    let hidden = check_tokens(&check, "h", h, sequences)?;
    check.tensor("y", y, &[sequences.count(), hidden], F32)?;
    match check.device() {
        Device::Cpu => with_float!(h.dtype(), T => cpu::forward::<T>(
            h.as_slice()?, sequences.host_offsets(), hidden, pooling, y.as_mut_slice()?)),
        Device::Cuda(gpu) if hidden > 0 => gpu.launch(&cuda::forward(h, sequences, pooling, y)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Gradient of [`forward`]: each kept token gets its share of its sequence's gradient, every other token zero.
///
/// - `dy`: `[sequences, hidden]`, f32
/// - `dh`: `[tokens, hidden]`, f32 or bf16, out, every row
pub fn backward(dy: &Tensor, sequences: &Sequences, pooling: Pooling, dh: &mut Tensor) -> super::Result {
    let check = Check::new("pooling backward", dy);
    let hidden = check_tokens(&check, "dh", dh, sequences)?;
    check.tensor("dy", dy, &[sequences.count(), hidden], F32)?;
    match check.device() {
        Device::Cpu => with_float!(dh.dtype(), T => cpu::backward::<T>(
            dy.as_slice()?, sequences.host_offsets(), hidden, pooling, dh.as_mut_slice()?)),
        Device::Cuda(gpu) if hidden > 0 => gpu.launch(&cuda::backward(dy, sequences, pooling, dh)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Checks a tensor of one row a token, and returns its columns.
fn check_tokens(check: &Check, name: &'static str, t: &Tensor, sequences: &Sequences) -> super::Result<usize> {
    let (_, hidden) = check.matrix(name, t)?;
    check.tensor(name, t, &[sequences.tokens(), hidden], FLOAT)?;
    check.dtype("sequences", sequences.offsets(), U32)?;
    Ok(hidden)
}

/// The reference. `offsets`: first token of each sequence, and the number of tokens at the end.
pub mod cpu {
    use super::Pooling;
    use crate::ops::Float;
    use rayon::prelude::*;
    use std::ops::Range;

    /// See [`super::forward`].
    pub fn forward<T: Float>(h: &[T], offsets: &[u32], hidden: usize, pooling: Pooling, y: &mut [f32]) {
        y.par_chunks_mut(hidden).zip(offsets.par_windows(2)).for_each(|(y, bounds)| {
            let tokens = &h[bounds[0] as usize * hidden..bounds[1] as usize * hidden];
            let kept = kept(pooling, tokens.len() / hidden);
            y.fill(0.0);
            for row in tokens[kept.start * hidden..kept.end * hidden].chunks(hidden) {
                for (y, h) in y.iter_mut().zip(row) {
                    *y += h.to_f32();
                }
            }
            for y in y {
                *y /= kept.len() as f32;
            }
        });
    }

    /// See [`super::backward`].
    pub fn backward<T: Float>(dy: &[f32], offsets: &[u32], hidden: usize, pooling: Pooling, dh: &mut [T]) {
        let mut rest = dh;
        let mut sequences = Vec::with_capacity(offsets.len());
        for bounds in offsets.windows(2) {
            let (tokens, after) = rest.split_at_mut((bounds[1] - bounds[0]) as usize * hidden);
            sequences.push(tokens);
            rest = after;
        }
        sequences.into_par_iter().zip(dy.par_chunks(hidden)).for_each(|(tokens, dy)| {
            let kept = kept(pooling, tokens.len() / hidden);
            for (position, row) in tokens.chunks_mut(hidden).enumerate() {
                if kept.contains(&position) {
                    for (dh, dy) in row.iter_mut().zip(dy) {
                        *dh = T::from_f32(dy / kept.len() as f32);
                    }
                } else {
                    row.fill(T::from_f32(0.0));
                }
            }
        });
    }

    /// Positions, of `length`, that the mean is over.
    fn kept(pooling: Pooling, length: usize) -> Range<usize> {
        match pooling {
            Pooling::Mean => 0..length,
            Pooling::MeanNoSink => usize::from(length > 1)..length,
            Pooling::Last => length.saturating_sub(1)..length,
        }
    }
}

mod cuda {
    use super::{Pooling, Sequences};
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::params::{self, PoolingParams};

    /// Columns a block, eight of them a thread.
    const COLUMNS: usize = params::KIUNGO_POOLING_COLUMNS as usize;

    pub fn forward(h: &Tensor, sequences: &Sequences, pooling: Pooling, y: &Tensor) -> Result<Launch> {
        launch(kernel_for!(h.dtype(), "pooling_forward"), h, sequences, pooling, y)
    }

    pub fn backward(dy: &Tensor, sequences: &Sequences, pooling: Pooling, dh: &Tensor) -> Result<Launch> {
        launch(kernel_for!(dh.dtype(), "pooling_backward"), dh, sequences, pooling, dy)
    }

    fn launch(kernel: &'static str, h: &Tensor, sequences: &Sequences, pooling: Pooling, y: &Tensor) -> Result<Launch> {
        let params = PoolingParams {
            h: h.address()?,
            offsets: sequences.offsets().address()?,
            y: y.address()?,
            hidden: h.columns() as u32,
            pooling: pooling.number(),
        };
        // The parts of a sequence are neighbours, so that what runs together reads whole rows.
        let grid = [(sequences.count() * h.columns().div_ceil(COLUMNS)) as u32, 1, 1];
        Ok(Launch::new("pooling", kernel, grid, COLUMNS as u32 / 8, params))
    }
}
