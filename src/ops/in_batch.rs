//! What the losses over a batch's similarity matrix share ([`infonce`](super::infonce), [`triplet`](super::triplet)).
//!
//! `similarity[i, j]` compares anchor i with positive j. The diagonal holds the pairs. Every other entry is a
//! negative of its row, and of its column where columns count too, unless `excluded` takes it out: a synonym, or
//! the same word drawn twice, is no negative.

use super::check::{Check, F32, U8};
use super::params::InBatchParams;
use crate::device::{Gpu, Tensor};

/// Which side of a pair looks for its partner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Anchors look among the positives: rows.
    Forward,
    /// The mean of anchors among positives and positives among anchors: rows and columns.
    #[default]
    Both,
}

impl Direction {
    pub(super) fn sides(self) -> &'static [Side] {
        match self {
            Direction::Forward => &[Side::Row],
            Direction::Both => &[Side::Row, Side::Column],
        }
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Direction::Forward => "forward",
            Direction::Both => "both",
        })
    }
}

impl std::str::FromStr for Direction {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "forward" => Ok(Direction::Forward),
            "both" => Ok(Direction::Both),
            _ => Err(format!("unknown direction `{s}`, expected forward or both")),
        }
    }
}

/// The lines of the matrix that one direction reads.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Row,
    Column,
}

impl Side {
    /// The line of this side that entry (i, j) lies on.
    pub(super) fn line(self, i: usize, j: usize) -> usize {
        match self {
            Side::Row => i,
            Side::Column => j,
        }
    }
}

/// Which entries of the `[n, n]` matrix, on the host, are negatives.
#[derive(Clone, Copy)]
pub(super) struct Negatives<'a> {
    pub n: usize,
    pub excluded: Option<&'a [u8]>,
}

impl Negatives<'_> {
    pub(super) fn contains(&self, i: usize, j: usize) -> bool {
        i != j && self.excluded.is_none_or(|excluded| excluded[i * self.n + j] == 0)
    }

    /// Positions of pair `i`'s negatives on one side, in rising order.
    pub(super) fn of(&self, side: Side, i: usize) -> impl Iterator<Item = usize> + Clone {
        let entries = (0..self.n).map(move |j| match side {
            Side::Row => (i, j),
            Side::Column => (j, i),
        });
        entries.filter(|&(i, j)| self.contains(i, j)).map(|(i, j)| i * self.n + j)
    }
}

/// Checks the tensors of a loss over similarities, and returns the number of pairs.
pub(super) fn check(
    check: &Check,
    similarity: &Tensor,
    excluded: Option<&Tensor>,
    loss: &Tensor,
    dsimilarity: &Tensor,
) -> super::Result<usize> {
    let (n, _) = check.matrix("similarity", similarity)?;
    check.tensor("similarity", similarity, &[n, n], F32)?;
    check.value(n > 0, || "a batch needs at least one pair".into())?;
    if let Some(excluded) = excluded {
        check.tensor("excluded", excluded, &[n, n], U8)?;
    }
    check.tensor("loss", loss, &[1], F32)?;
    check.like("dsimilarity", dsimilarity, similarity)?;
    Ok(n)
}

/// Two numbers for each pair and direction.
pub(super) fn workspace_bytes(n: usize, direction: Direction) -> usize {
    2 * direction.sides().len() * n * size_of::<f64>()
}

/// What the losses' kernels are told, but for their own temperature or margin.
pub(super) fn params(
    gpu: &Gpu,
    similarity: &Tensor,
    excluded: Option<&Tensor>,
    direction: Direction,
    loss: &Tensor,
    dsimilarity: &Tensor,
) -> super::Result<InBatchParams> {
    let (n, sides) = (similarity.rows(), direction.sides().len());
    let workspace = gpu.workspace(workspace_bytes(n, direction))?;
    Ok(InBatchParams {
        similarity: similarity.address()?,
        excluded: excluded.map_or(Ok(0), |excluded| excluded.address())?,
        loss: loss.address()?,
        dsimilarity: dsimilarity.address()?,
        workspace,
        n: n as u32,
        sides: sides as u32,
        ..Default::default()
    })
}
