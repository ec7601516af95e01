//! From the states of a batch's tokens to the loss, and back: pool, normalise, compare, and the loss.

use super::batch::Batch;
use super::settings::{Loss, Settings};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::contrast::{self, Contrast};
use crate::ops::{Result, cosine, infonce, pairs, pooling, triplet};

/// Buffers for batches of up to some number of pairs.
pub struct Objective {
    pooled: Tensor,
    /// Of the texts of a pass over a part of a batch: their vectors, then those's gradients.
    part: Tensor,
    unit: Tensor,
    norm: Tensor,
    dunit: Tensor,
    dpooled: Tensor,
    similarity: Tensor,
    dsimilarity: Tensor,
    loss: Tensor,
}

impl Objective {
    /// For `pairs` pairs of vectors of `hidden` values, and parts of batches of up to `part` texts.
    pub fn new(
        device: &Device,
        pairs: usize,
        part: usize,
        hidden: usize,
    ) -> std::result::Result<Objective, DeviceError> {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape);
        Ok(Objective {
            pooled: zeros(&[2 * pairs, hidden])?,
            part: zeros(&[part, hidden])?,
            unit: zeros(&[2 * pairs, hidden])?,
            norm: zeros(&[2 * pairs])?,
            dunit: zeros(&[2 * pairs, hidden])?,
            dpooled: zeros(&[2 * pairs, hidden])?,
            similarity: zeros(&[pairs, pairs])?,
            dsimilarity: zeros(&[pairs, pairs])?,
            loss: zeros(&[1])?,
        })
    }

    /// Takes the vectors of the selected texts from the states of their tokens.
    pub fn pool(&mut self, settings: &Settings, batch: &Batch, hidden: &Tensor) -> Result {
        self.set_pairs(batch.pairs)?;
        if batch.is_whole() {
            return pooling::forward(hidden, &batch.sequences, settings.training_pooling, &mut self.pooled);
        }
        self.part.set_rows(batch.texts.len())?;
        pooling::forward(hidden, &batch.sequences, settings.training_pooling, &mut self.part)?;
        Ok(self.pooled.copy_rows(batch.texts.start, &self.part, 0, batch.texts.len())?)
    }

    /// The loss of the batch, and the gradients of the vectors of all its texts.
    pub fn compare(&mut self, settings: &Settings, batch: &Batch) -> Result {
        cosine::normalize(&self.pooled, &mut self.unit, &mut self.norm)?;
        pairs::forward(&self.unit, &mut self.similarity)?;
        self.loss_of_cosines(settings, batch)?;
        pairs::backward(&self.dsimilarity, &self.unit, &mut self.dunit)?;
        cosine::normalize_backward(&self.dunit, &self.unit, &self.norm, &mut self.dpooled)
    }

    /// The loss of a whole batch of few pairs, and the gradient of their states in `dhidden`, where [`contrast`] takes them: what
    /// [`Objective::pool`], [`Objective::compare`] and [`Objective::spread`] do. False where it does not.
    pub fn contrast(
        &mut self,
        settings: &Settings,
        batch: &Batch,
        hidden: &Tensor,
        dhidden: &mut Tensor,
    ) -> Result<bool> {
        if !batch.is_whole() || !contrast::fits(&hidden.device(), batch.pairs, hidden.rows(), hidden.columns()) {
            return Ok(false);
        }
        self.set_pairs(batch.pairs)?;
        let (loss, excluded) = match settings.loss {
            Loss::Infonce => (contrast::Loss::Infonce { temperature: settings.temperature }, batch.excluded()),
            // As published: every other word of the batch is a negative, a listed translation too.
            Loss::Triplet => (contrast::Loss::Triplet { margin: settings.margin }, None),
        };
        let what = Contrast {
            sequences: &batch.sequences,
            pooling: settings.training_pooling,
            loss,
            direction: settings.direction,
            excluded,
        };
        contrast::forward_backward(hidden, &what, &mut self.pooled, &mut self.dpooled, &mut self.loss, dhidden)?;
        Ok(true)
    }

    /// Leaves the gradient of the states of the selected texts' tokens in `dhidden`.
    pub fn spread(&mut self, settings: &Settings, batch: &Batch, dhidden: &mut Tensor) -> Result {
        dhidden.zero_rows(batch.padding.clone())?;
        let pooling = settings.training_pooling;
        if batch.is_whole() {
            return pooling::backward(&self.dpooled, &batch.sequences, pooling, dhidden);
        }
        self.part.set_rows(batch.texts.len())?;
        self.part.copy_rows(0, &self.dpooled, batch.texts.start, batch.texts.len())?;
        pooling::backward(&self.part, &batch.sequences, pooling, dhidden)
    }

    /// The loss of the last batch, `[1]` f32.
    pub fn loss(&self) -> &Tensor {
        &self.loss
    }

    fn loss_of_cosines(&mut self, settings: &Settings, batch: &Batch) -> Result {
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
