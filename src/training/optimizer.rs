//! AdamW over the parameters that learn, with an optional clip of the gradient's norm.

use crate::device::{DType, Device, Tensor};
use crate::ops::adamw::{self, AdamW};
use crate::ops::{OpError, Result, clip};

/// One tensor that learns, with its gradient.
pub struct Parameter<'a> {
    /// Its name in a checkpoint.
    pub name: String,
    /// f32 values: the weights themselves, or the master copy of weights held in fewer bits.
    pub master: &'a mut Tensor,
    /// f32 gradient.
    pub gradient: &'a mut Tensor,
    /// The weights that the model computes with, if they are held in fewer bits.
    pub rounded: Option<&'a mut Tensor>,
}

struct Moments {
    first: Tensor,
    second: Tensor,
}

/// The optimizer's state, one entry a parameter, in the order that they are given at every step.
#[derive(Default)]
pub struct Optimizer {
    moments: Vec<Moments>,
    steps: u32,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Norm of the whole gradient, before clipping.
    pub gradient_norm: f32,
}

impl Optimizer {
    /// One AdamW step over `parameters`, whose order must not change between steps; gradients are zeroed.
    ///
    /// A gradient that is not finite changes nothing and is returned as the norm, for the caller to report.
    pub fn step(
        &mut self,
        device: &Device,
        hyper: &AdamW,
        clip: Option<f32>,
        parameters: &mut [Parameter],
    ) -> Result<Update> {
        while self.moments.len() < parameters.len() {
            let shape = parameters[self.moments.len()].master.shape();
            let zeros = || Tensor::zeros(device, DType::F32, shape).map_err(OpError::from);
            self.moments.push(Moments { first: zeros()?, second: zeros()? });
        }
        let mut square = Tensor::zeros(device, DType::F32, &[1])?;
        for p in parameters.iter() {
            clip::add_squared_norm(p.gradient, &mut square)?;
        }
        let gradient_norm = square.to_vec::<f32>()?[0].sqrt();
        if !gradient_norm.is_finite() {
            return Ok(Update { gradient_norm });
        }
        let scale = match clip {
            // torch's clip_grad_norm_ divides by norm + 1e-6.
            Some(largest) => (largest / (gradient_norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        self.steps += 1;
        for (p, m) in parameters.iter_mut().zip(&mut self.moments) {
            if scale < 1.0 {
                clip::scale(p.gradient, scale)?;
            }
            let rounded = p.rounded.as_deref_mut();
            adamw::step(hyper, self.steps, p.master, p.gradient, &mut m.first, &mut m.second, rounded)?;
            p.gradient.fill_zero()?;
        }
        Ok(Update { gradient_norm })
    }
}
