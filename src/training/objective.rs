//! From the states of a batch's tokens to the loss, and back: pool, normalise, compare, and the loss.

use super::batch::Batch;
use super::settings::{Loss, Settings};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::{Result, cosine, infonce, pairs, pooling, triplet};

/// Buffers for batches of up to some number of pairs.
pub struct Objective {
    pooled: Tensor,
    unit: Tensor,
    norm: Tensor,
    dunit: Tensor,
    dpooled: Tensor,
    similarity: Tensor,
    dsimilarity: Tensor,
    loss: Tensor,
}

impl Objective {
    /// For `pairs` pairs of vectors of `hidden` values.
    pub fn new(device: &Device, pairs: usize, hidden: usize) -> std::result::Result<Objective, DeviceError> {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape);
        Ok(Objective {
            pooled: zeros(&[2 * pairs, hidden])?,
            unit: zeros(&[2 * pairs, hidden])?,
            norm: zeros(&[2 * pairs])?,
            dunit: zeros(&[2 * pairs, hidden])?,
            dpooled: zeros(&[2 * pairs, hidden])?,
            similarity: zeros(&[pairs, pairs])?,
            dsimilarity: zeros(&[pairs, pairs])?,
            loss: zeros(&[1])?,
        })
    }

    /// Leaves the loss of a batch whose tokens have the states `hidden`, and its gradient in `dhidden`.
    pub fn run(&mut self, settings: &Settings, batch: &Batch, hidden: &Tensor, dhidden: &mut Tensor) -> Result {
        let n = batch.pairs;
        self.set_pairs(n)?;
        pooling::forward(hidden, &batch.sequences, settings.training_pooling, &mut self.pooled)?;
        cosine::normalize(&self.pooled, &mut self.unit, &mut self.norm)?;
        pairs::forward(&self.unit, &mut self.similarity)?;
        self.compare(settings, batch)?;
        pairs::backward(&self.dsimilarity, &self.unit, &mut self.dunit)?;
        cosine::normalize_backward(&self.dunit, &self.unit, &self.norm, &mut self.dpooled)?;
        dhidden.zero_rows(batch.padding.clone())?;
        pooling::backward(&self.dpooled, &batch.sequences, settings.training_pooling, dhidden)
    }

    /// The loss of the last batch, `[1]` f32.
    pub fn loss(&self) -> &Tensor {
        &self.loss
    }

    fn compare(&mut self, settings: &Settings, batch: &Batch) -> Result {
        let Objective { similarity, dsimilarity, loss, .. } = self;
        match settings.loss {
            Loss::Infonce => {
                let excluded = batch.excluded();
                infonce::forward(similarity, excluded, settings.temperature, settings.direction, loss, dsimilarity)
            }
            // As published: every other word of the batch is a negative, a listed translation too.
            Loss::Triplet => triplet::hardest(similarity, None, settings.direction, settings.margin, loss, dsimilarity),
        }
    }

    fn set_pairs(&mut self, n: usize) -> Result {
        let both = [&mut self.pooled, &mut self.unit, &mut self.norm, &mut self.dunit, &mut self.dpooled];
        both.into_iter().try_for_each(|t| t.set_rows(2 * n))?;
        self.similarity.set_square(n)?;
        Ok(self.dsimilarity.set_square(n)?)
    }
}
