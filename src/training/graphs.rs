//! The launches of a step, recorded once for each shape of batch and replayed.

use crate::device::{DeviceError, Gpu, Recording};
use crate::ops::{OpError, Result};
use std::collections::HashMap;

/// All that the arguments of a step's launches depend on: steps of equal shapes are the same launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Tokens, with the padding.
    pub tokens: usize,
    /// The longest sequence, as the batch has it.
    pub longest: usize,
    /// Number of pairs.
    pub pairs: usize,
    /// Whether some entries of the similarity matrix are no negatives.
    pub excluded: bool,
    /// Of the workspace, which moves when it grows.
    pub workspace_bytes: usize,
    /// A hash of the addresses of all that a caller could exchange.
    pub addresses: u64,
}

/// Shapes that are remembered; with more, all are forgotten.
const MOST: usize = 64;

/// Recorded steps.
#[derive(Default)]
pub struct Graphs(HashMap<Shape, Option<Box<dyn Recording>>>);

impl Graphs {
    /// Runs a step of some shape. The first one runs as it is, which loads its kernels; the second one is recorded; from
    /// then on they are replayed. Where the GPU records nothing, all run as they are.
    pub fn run(&mut self, gpu: &Gpu, shape: Shape, mut step: impl FnMut() -> Result) -> Result {
        match self.0.get(&shape) {
            Some(Some(recording)) => return Ok(recording.replay()?),
            Some(None) => {}
            None => {
                if self.0.len() >= MOST {
                    // They may be running.
                    gpu.synchronize()?;
                    self.0.clear();
                }
                self.0.insert(shape, None);
                return step();
            }
        }
        match record(gpu, &mut step)? {
            Some(recording) => {
                recording.replay()?;
                self.0.insert(shape, Some(recording));
                Ok(())
            }
            None => step(),
        }
    }
}

fn record(gpu: &Gpu, step: &mut dyn FnMut() -> Result) -> Result<Option<Box<dyn Recording>>> {
    let mut failed = None;
    let recording = gpu.record(&mut || {
        step().map_err(|error| match error {
            OpError::Driver(error) => error,
            other => {
                let error = DeviceError::Driver { call: "recording a step".into(), message: other.to_string() };
                failed = Some(other);
                error
            }
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(recording?),
    }
}
