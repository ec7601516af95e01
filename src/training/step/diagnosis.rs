//! Where numbers stopped being finite.

use super::Trainer;
use crate::device::{DType, Tensor};
use crate::ops::Result;
use crate::training::batch::Group;
use crate::training::settings::When;

impl Trainer {
    /// The first tensor of a step, in the order that they are computed in, that holds a NaN or an infinity: a state
    /// between blocks, the loss, or the gradient of a parameter. Runs the step's forward and backward passes again and
    /// changes nothing; take all reports first.
    pub fn first_not_finite(&mut self, group: &Group, pairs: &[usize], step: u32) -> Result<String> {
        self.stage(group, pairs, step, 0.0)?;
        if let Some(state) = self.states_not_finite()? {
            return Ok(state);
        }
        if self.settings.update == When::AtOnce {
            self.compare()?;
            let gradient = "the gradient of a weight that learns at once";
            return Ok(if is_finite(self.objective.loss())? { gradient } else { "the loss" }.into());
        }
        self.stage(group, pairs, step, 0.0)?;
        self.add_gradients()?;
        let loss = is_finite(self.objective.loss())?;
        let mut found = (!loss).then(|| "the loss".into());
        for p in self.learner.parameters(&mut self.model) {
            let Some(gradient) = p.gradient else { continue };
            if found.is_none() && !is_finite(gradient)? {
                found = Some(format!("the gradient of {}", p.name));
            }
            // The next step adds to it.
            gradient.fill_zero()?;
        }
        Ok(found.unwrap_or_else(|| "the sum of the gradient's squares".into()))
    }

    /// Of all texts of the staged batch.
    fn states_not_finite(&mut self) -> Result<Option<String>> {
        let Some(chunk) = self.settings.chunk else {
            self.forward()?;
            return self.state_not_finite();
        };
        for part in self.parts(chunk) {
            self.select(part)?;
            self.forward()?;
            if let Some(state) = self.state_not_finite()? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    fn state_not_finite(&self) -> Result<Option<String>> {
        for (i, state) in self.states.iter().enumerate() {
            if !is_finite(state)? {
                return Ok(Some(format!("hidden({})", self.plan.prefix + i)));
            }
        }
        match &self.normed {
            Some(normed) if !is_finite(&normed.output)? => Ok(Some("final".into())),
            _ => Ok(None),
        }
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    match tensor.dtype() {
        DType::F32 | DType::Bf16 => Ok(tensor.to_f32()?.iter().all(|x| x.is_finite())),
        DType::U32 | DType::U8 => Ok(true),
    }
}
