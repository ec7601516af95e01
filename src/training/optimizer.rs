//! AdamW over the parameters that learn, with an optional clip of the gradient's norm.

use crate::device::{DType, Device, Tensor};
use crate::ops::step::{self, Metrics, State, Status};
use crate::ops::{Result, adamw, clip};

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
pub struct Optimizer {
    moments: Vec<Moments>,
    /// Sums of squares of all gradients.
    squares: Tensor,
    status: Status,
}

impl Optimizer {
    /// Zero moments for `parameters`.
    pub fn new(device: &Device, parameters: &[Parameter]) -> Result<Optimizer> {
        let moments = |p: &Parameter| {
            let zeros = || Tensor::zeros(device, DType::F32, p.master.shape());
            Ok(Moments { first: zeros()?, second: zeros()? })
        };
        let sums = parameters.iter().map(|p| clip::sums(p.gradient.len())).sum();
        Ok(Optimizer {
            moments: parameters.iter().map(moments).collect::<Result<_>>()?,
            squares: Tensor::zeros(device, DType::F32, &[sums])?,
            status: Status::new(device)?,
        })
    }

    /// One AdamW step over the parameters that the optimizer was made for; gradients are zeroed, and the step's record
    /// goes to `metrics`.
    ///
    /// From the first loss or gradient that is not finite on, nothing is updated any more.
    pub fn step(
        &mut self,
        state: &State,
        loss: &Tensor,
        metrics: &mut Metrics,
        parameters: &mut [Parameter],
    ) -> Result {
        let mut first = 0;
        for p in parameters.iter() {
            clip::squares(p.gradient, &mut self.squares, first)?;
            first += clip::sums(p.gradient.len());
        }
        step::judge(loss, &self.squares, state, &mut self.status, metrics)?;
        for (p, m) in parameters.iter_mut().zip(&mut self.moments) {
            let rounded = p.rounded.as_deref_mut();
            adamw::step_from(state, &self.status, p.master, p.gradient, &mut m.first, &mut m.second, rounded)?;
            p.gradient.fill_zero()?;
        }
        Ok(())
    }
}
