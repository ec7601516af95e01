//! What of a trainer a checkpoint holds, and its hash.

use super::Trainer;
use crate::device::Tensor;
use crate::ops::Result;
use sha2::{Digest, Sha256};

impl Trainer {
    /// Everything that steps change, by name and in a fixed order: who puts it back continues as if nothing had been. A
    /// step's number decides the rest: its rate, its dropout and its pairs.
    ///
    /// Take all reports first.
    pub fn tensors(&mut self) -> Vec<(String, &mut Tensor)> {
        let Trainer { model, learner, optimizer, .. } = self;
        optimizer.tensors(learner.parameters(model))
    }

    /// SHA-256, in hexadecimal, over names, types, shapes and bytes of all that learns.
    pub fn hash(&mut self) -> Result<String> {
        let mut hash = Sha256::new();
        for p in self.learner.parameters(&mut self.model) {
            hash.update(format!("{} {} {:?} ", p.name, p.master.dtype(), p.master.shape()));
            hash.update(p.master.to_bytes()?);
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Says how many steps may be left out because their loss or gradient is not finite, and how many were already.
    pub fn skip(&mut self, allowed: u32, skipped: u32) -> Result {
        self.optimizer.skip(allowed, skipped)
    }

    /// Whether the parameters are those after some step: they are not where a launch of an update failed, or where weights
    /// that learn at once have met a gradient that is not finite.
    pub fn is_whole(&self) -> bool {
        !self.torn
    }
}
