//! Rotary position embedding (RoPE; Su et al. 2021, arXiv 2104.09864) in the rotate-half layout of transformers.
//!
//! With `h = head_dim / 2`, feature i of a head and feature `i + h` are one point of a plane, turned by
//! `position * inverse_frequency[i]`.
//!
//! # Cost and error
//!
//! - Cost: reads and writes `x`: `2 * b * tokens * heads * head_dim` bytes, 3 FLOPs an element.
//! - Error: 1e-6; angles are computed in f64 and rounded once. A GPU within 1e-7 of the CPU.

use super::check::{Allowed, Check, F32, FLOAT, U32};
use super::float::with_float;
use crate::device::{Device, Tensor};
use std::f64::consts::TAU;

/// How a checkpoint stretches the frequencies for longer contexts (`rope_scaling` in its config.json).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// As in the paper.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// How much longer the context is.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// How much longer the context is.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are stretched by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context the model was first trained with, in tokens.
        original_max_position: f64,
    },
}

impl Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let turns = original_max_position * frequency / TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// Radians a position, for each of the `head_dim / 2` planes: `theta^(-2i / head_dim)`, scaled.
pub fn inverse_frequencies(theta: f64, head_dim: usize, scaling: &Scaling) -> Vec<f64> {
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64);
    (0..head_dim / 2).map(|i| scaling.apply(frequency(i))).collect()
}

/// Cosines and sines of every position, computed in f64 and rounded once.
#[derive(Debug)]
pub struct Table {
    cos: Tensor,
    sin: Tensor,
}

impl Table {
    /// Cosines and sines.
    pub fn tensors(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
    }

    /// Positions `0..positions`; the frequencies come from [`inverse_frequencies`].
    pub fn new(device: &Device, inverse_frequencies: &[f64], positions: usize) -> super::Result<Table> {
        let angles = || (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| p as f64 * f));
        let shape = [positions, inverse_frequencies.len()];
        let cos = angles().map(|a| a.cos() as f32).collect();
        let sin = angles().map(|a| a.sin() as f32).collect();
        Ok(Table { cos: Tensor::from_vec(device, cos, &shape)?, sin: Tensor::from_vec(device, sin, &shape)? })
    }

    /// Positions it has.
    pub fn positions(&self) -> usize {
        self.cos.rows()
    }

    /// `[positions, head_dim / 2]`, f32.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// `[positions, head_dim / 2]`, f32.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}

/// Turns every head of `x`, in place.
///
/// - `x`: `[tokens, heads * head_dim]`, f32 or bf16
/// - `positions`: `[tokens]`, u32, below the table's (an error on the CPU, NaN on CUDA)
/// - `head_dim`: even, twice the table's columns
pub fn forward(x: &mut Tensor, positions: &Tensor, table: &Table, head_dim: usize) -> super::Result {
    turn("rope", &mut [x], positions, table, head_dim, Direction::Forward)
}

/// [`forward`] of queries and keys at once: the same type, each with its own number of heads.
pub fn forward_both(
    q: &mut Tensor,
    k: &mut Tensor,
    positions: &Tensor,
    table: &Table,
    head_dim: usize,
) -> super::Result {
    turn("rope", &mut [q, k], positions, table, head_dim, Direction::Forward)
}

/// Gradient of [`forward`]: turns back, in place.
///
/// - `dx`: `[tokens, heads * head_dim]`, f32 or bf16, in: gradient of the result, out: of the argument
pub fn backward(dx: &mut Tensor, positions: &Tensor, table: &Table, head_dim: usize) -> super::Result {
    turn("rope backward", &mut [dx], positions, table, head_dim, Direction::Back)
}

/// Gradient of [`forward_both`].
pub fn backward_both(
    dq: &mut Tensor,
    dk: &mut Tensor,
    positions: &Tensor,
    table: &Table,
    head_dim: usize,
) -> super::Result {
    turn("rope backward", &mut [dq, dk], positions, table, head_dim, Direction::Back)
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the angle.
    Forward,
    /// By its negative.
    Back,
}

/// At most two tensors.
fn turn(
    op: &'static str,
    xs: &mut [&mut Tensor],
    positions: &Tensor,
    table: &Table,
    head_dim: usize,
    direction: Direction,
) -> super::Result {
    let check = Check::new(op, positions);
    let (tokens, _) = check.matrix("x", xs[0])?;
    check.dtype("x", xs[0], FLOAT)?;
    check.tensor("positions", positions, &[tokens], U32)?;
    let dtype = xs[0].dtype();
    for x in &*xs {
        let (_, columns) = check.matrix("x", x)?;
        check.tensor("x", x, &[tokens, columns], Allowed::Only(dtype))?;
        check.value(head_dim > 0 && head_dim.is_multiple_of(2) && columns.is_multiple_of(head_dim), || {
            format!("{columns} columns cannot be cut into heads of {head_dim}, which must be even")
        })?;
    }
    check.tensor("table", &table.cos, &[table.positions(), head_dim / 2], F32)?;
    match check.device() {
        Device::Cpu => {
            let last = positions.as_slice::<u32>()?.iter().copied().max().unwrap_or(0) as usize;
            check.value(tokens == 0 || last < table.positions(), || {
                format!("position {last} is beyond the model's {} positions: cut the text", table.positions())
            })?;
            let (cos, sin) = (table.cos.as_slice()?, table.sin.as_slice()?);
            for x in xs {
                let columns = x.columns();
                with_float!(dtype, T => cpu::turn::<T>(
                    x.as_mut_slice()?, columns, positions.as_slice()?, cos, sin, head_dim, direction));
            }
        }
        Device::Cuda(gpu) if tokens > 0 => gpu.launch(&cuda::turn(xs, positions, table, head_dim, direction)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// The reference.
pub mod cpu {
    use super::Direction;
    use crate::ops::Float;
    use rayon::prelude::*;

    /// See [`super::forward`] and [`super::backward`].
    pub fn turn<T: Float>(
        x: &mut [T],
        columns: usize,
        positions: &[u32],
        cos: &[f32],
        sin: &[f32],
        head_dim: usize,
        direction: Direction,
    ) {
        let half = head_dim / 2;
        let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
        x.par_chunks_mut(columns).zip(positions).for_each(|(row, &position)| {
            let cos = &cos[position as usize * half..][..half];
            let sin = &sin[position as usize * half..][..half];
            for head in row.chunks_exact_mut(head_dim) {
                let (left, right) = head.split_at_mut(half);
                for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    let (a, b, sin) = (left.to_f32(), right.to_f32(), sign * sin);
                    *left = T::from_f32(a * cos - b * sin);
                    *right = T::from_f32(b * cos + a * sin);
                }
            }
        });
    }
}

mod cuda {
    use super::{Direction, Table};
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::float::kernel_for;
    use crate::ops::launch::threads;
    use crate::ops::params::RopeParams;

    /// Most threads a token.
    const MOST: usize = 512;

    pub fn turn(
        xs: &[&mut Tensor],
        positions: &Tensor,
        table: &Table,
        head_dim: usize,
        way: Direction,
    ) -> Result<Launch> {
        let mut params = RopeParams {
            positions: positions.address()?,
            cos: table.cos.address()?,
            sin: table.sin.address()?,
            head_dim: head_dim as u32,
            position_count: table.positions() as u32,
            sign: if way == Direction::Forward { 1.0 } else { -1.0 },
            ..Default::default()
        };
        for (i, x) in xs.iter().enumerate() {
            (params.x[i], params.columns[i]) = (x.address()?, x.columns() as u32);
        }
        let heads: usize = xs.iter().map(|x| x.columns() / head_dim).sum();
        let threads = threads(heads * (head_dim / 2).div_ceil(8), MOST);
        Ok(Launch::new("rope", kernel_for!(xs[0].dtype(), "rope"), [positions.len() as u32, 1, 1], threads, params))
    }
}
