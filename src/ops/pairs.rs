//! The cosines of a batch's sources with its targets.
//!
//! # Cost and error
//!
//! - Cost: `2 * n^2 * hidden` FLOPs forward, twice that backward; at least `8 * n * hidden` bytes forward, twice that backward.
//! - Error: 1e-6; a GPU within 1e-6 of the CPU.

use super::check::{Check, F32};
use crate::device::{Device, Tensor};

/// `similarity[i, j] = unit[i, :] . unit[n + j, :]`.
///
/// - `unit`: `[2 n, hidden]`, f32: the sources, then the targets, of length 1
/// - `similarity`: `[n, n]`, f32, out
pub fn forward(unit: &Tensor, similarity: &mut Tensor) -> super::Result {
    let check = Check::new("pairs", unit);
    let (n, hidden) = check_unit(&check, unit)?;
    check.tensor("similarity", similarity, &[n, n], F32)?;
    match check.device() {
        Device::Cpu => cpu::forward([n, hidden], unit.as_slice()?, similarity.as_mut_slice()?),
        Device::Cuda(gpu) if n > 0 => gpu.launch(&cuda::forward([n, hidden], unit, similarity)?)?,
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Gradient of [`forward`].
///
/// - `dsimilarity`: `[n, n]`, f32
/// - `unit`: `[2 n, hidden]`, f32
/// - `dunit`: `[2 n, hidden]`, f32, out
pub fn backward(dsimilarity: &Tensor, unit: &Tensor, dunit: &mut Tensor) -> super::Result {
    let check = Check::new("pairs backward", unit);
    let (n, hidden) = check_unit(&check, unit)?;
    check.tensor("dsimilarity", dsimilarity, &[n, n], F32)?;
    check.like("dunit", dunit, unit)?;
    match check.device() {
        Device::Cpu => {
            cpu::backward([n, hidden], dsimilarity.as_slice()?, unit.as_slice()?, dunit.as_mut_slice()?);
        }
        Device::Cuda(gpu) if n > 0 && hidden > 0 => {
            gpu.launch(&cuda::backward([n, hidden], dsimilarity, unit, dunit)?)?
        }
        Device::Cuda(_) => {}
    }
    Ok(())
}

/// Pairs and width.
fn check_unit(check: &Check, unit: &Tensor) -> super::Result<(usize, usize)> {
    let (rows, hidden) = check.matrix("unit", unit)?;
    check.dtype("unit", unit, F32)?;
    check.value(rows.is_multiple_of(2), || format!("{rows} rows are no sources and as many targets"))?;
    Ok((rows / 2, hidden))
}

/// The reference; sizes are n and hidden.
pub mod cpu {
    use crate::ops::gemm::{Layout, cpu::gemm};

    /// See [`super::forward`].
    pub fn forward([n, hidden]: [usize; 2], unit: &[f32], similarity: &mut [f32]) {
        let (sources, targets) = unit.split_at(n * hidden);
        gemm(Layout::Nt, [n, n, hidden], sources, targets, similarity, false);
    }

    /// See [`super::backward`].
    pub fn backward([n, hidden]: [usize; 2], dsimilarity: &[f32], unit: &[f32], dunit: &mut [f32]) {
        let (sources, targets) = unit.split_at(n * hidden);
        let (dsources, dtargets) = dunit.split_at_mut(n * hidden);
        gemm(Layout::Nn, [n, hidden, n], dsimilarity, targets, dsources, false);
        gemm(Layout::Tn, [n, hidden, n], dsimilarity, sources, dtargets, false);
    }
}

mod cuda {
    use crate::device::{Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::params::{KIUNGO_PAIRS_ROWS, PairsParams};

    const THREADS: usize = 256;
    const ROWS: usize = KIUNGO_PAIRS_ROWS as usize;

    pub fn forward([n, hidden]: [usize; 2], unit: &Tensor, similarity: &Tensor) -> Result<Launch> {
        let params = params([n, hidden], unit, similarity)?;
        let blocks = n.div_ceil(ROWS) as u32;
        Ok(Launch::new("pairs", "pairs_forward", [blocks, blocks, 1], THREADS as u32, params))
    }

    pub fn backward([n, hidden]: [usize; 2], dsimilarity: &Tensor, unit: &Tensor, dunit: &Tensor) -> Result<Launch> {
        let params = PairsParams { dunit: dunit.address()?, ..params([n, hidden], unit, dsimilarity)? };
        let grid = [2 * n.div_ceil(ROWS), hidden.div_ceil(THREADS)].map(|x| x as u32);
        Ok(Launch::new("pairs", "pairs_backward", [grid[0], grid[1], 1], THREADS as u32, params))
    }

    fn params([n, hidden]: [usize; 2], unit: &Tensor, similarity: &Tensor) -> Result<PairsParams> {
        Ok(PairsParams {
            unit: unit.address()?,
            similarity: similarity.address()?,
            dunit: 0,
            n: n as u32,
            hidden: hidden as u32,
        })
    }
}
