//! How well a model predicts a text: what it forgets shows here.

use crate::device::{DType, Tensor};
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::encode::Encoder;
use crate::llama::model::Model;
use crate::ops::cross_entropy::{self, IGNORE};
use crate::ops::{OpError, Result};

/// `exp` of the mean cross-entropy of each token after the first of its text. The model must have its final norm and head.
pub fn perplexity(model: &Model, adapters: Option<&Adapters>, texts: &[&[u32]]) -> Result<f64> {
    let head = model
        .head()
        .ok_or_else(|| OpError::Value { op: "perplexity", message: "the head was not read with this model".into() })?;
    let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
    let (mut sum, mut count) = (0.0, 0);
    Encoder::new(model, adapters, longest)?.run(texts, &[Layer::Final], |batch| {
        let mut labels = vec![];
        for text in &texts[batch.texts.clone()] {
            labels.extend_from_slice(&text[1..]);
            labels.push(IGNORE);
        }
        let counted = labels.iter().filter(|&&label| label != IGNORE).count();
        let labels = Tensor::from_vec(&model.device, labels, &[batch.states.rows()])?;
        let mut loss = Tensor::zeros(&model.device, DType::F32, &[1])?;
        cross_entropy::forward_backward(batch.states, head, &labels, &mut loss, None, None)?;
        sum += f64::from(loss.to_vec::<f32>()?[0]) * counted as f64;
        count += counted;
        Ok(())
    })?;
    Ok((sum / count.max(1) as f64).exp())
}
