//! AdamW over the parameters that learn, with an optional clip of the gradient's norm.

use super::learner::Learner;
use super::settings::Settings;
use crate::device::{DType, Device, Gpu, Tensor};
use crate::llama::PerProjection;
use crate::llama::backward::LearnLinear;
use crate::llama::config::Projection;
use crate::llama::model::Model;
use crate::ops::adamw::{self, LinearLayer, Moments, Precision, Rounding};
use crate::ops::linear::{self, Weight};
use crate::ops::step::{self, Metrics, State, Status};
use crate::ops::{OpError, Result, clip};

/// One tensor that learns, with its gradient.
pub struct Parameter<'a> {
    /// Its name in a checkpoint.
    pub name: String,
    /// The values that learn: the weights themselves, or the f32 master copy of weights held in fewer bits.
    pub master: &'a mut Tensor,
    /// f32 gradient; None where it is not kept.
    pub gradient: Option<&'a mut Tensor>,
    /// The weights that the model computes with, if they are held in fewer bits.
    pub rounded: Option<&'a mut Tensor>,
}

/// The optimizer's state, one entry a parameter, in the order that they are given at every step.
pub struct Optimizer {
    moments: Vec<Moments>,
    /// Sums of squares: first those of all gradients that are not kept, then those of each that is.
    squares: Tensor,
    /// Where the second part begins.
    kept: usize,
    status: Status,
    seed: u64,
    /// Of the parameters that are one vector ([`Learner::whole`]): their `moments` are its parts.
    whole: Option<Moments>,
}

impl Optimizer {
    /// Zero moments for `parameters`; those whose gradients are kept are parts of one vector where they `are_one`.
    pub fn new(device: &Device, parameters: &[Parameter], are_one: bool, settings: &Settings) -> Result<Optimizer> {
        // A vector's would save next to nothing in fewer bits.
        let precision = |p: &Parameter| if p.master.shape().len() > 1 { settings.moments } else { Precision::F32 };
        let mut all = parameters
            .iter()
            .map(|p| Moments::new(device, precision(p), p.master.shape()))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let kept: Vec<usize> = (0..parameters.len()).filter(|&i| parameters[i].gradient.is_some()).collect();
        // Moments of fewer bits are the tensors of each parameter.
        let are_one = are_one && kept.iter().all(|&i| precision(&parameters[i]) == Precision::F32);
        let mut whole = None;
        if let (Device::Cuda(gpu), true) = (device, are_one) {
            let shapes: Vec<_> = kept.iter().map(|&i| parameters[i].master.shape().to_vec()).collect();
            let (one, parts) = moments_in_one(gpu, &shapes)?;
            whole = Some(one);
            kept.into_iter().zip(parts).for_each(|(i, part)| all[i] = part);
        }
        let (mut first, mut second) = (0, 0);
        for p in parameters {
            match &p.gradient {
                Some(gradient) => second += clip::sums(gradient.len()),
                None => first = adamw::update_linear_squares(p.master.len()).max(first),
            }
        }
        if let Some(whole) = &whole {
            second = clip::sums(whole.tensors()[0].len());
        }
        Ok(Optimizer {
            moments: all,
            whole,
            squares: Tensor::zeros(device, DType::F32, &[first + second])?,
            kept: first,
            status: Status::new(device)?,
            seed: settings.seed,
        })
    }

    /// Everything that steps change, by name: the parameters, the copies of them that are held in fewer bits, and their
    /// moments. In a fixed order.
    pub fn tensors<'a>(&'a mut self, parameters: Vec<Parameter<'a>>) -> Vec<(String, &'a mut Tensor)> {
        let mut list = vec![];
        for (p, m) in parameters.into_iter().zip(&mut self.moments) {
            let name = |part: &str| format!("{part}.{}", p.name);
            list.push((name("weights"), p.master));
            list.extend(p.rounded.map(|rounded| (name("rounded"), rounded)));
            let parts = ["first_moment", "second_moment", "first_exponents", "second_exponents"];
            list.extend(parts.map(name).into_iter().zip(m.tensors_mut()));
        }
        list
    }

    /// Steps that may be left out for a loss or gradient that is not finite, and those that were: by default none.
    pub fn skip(&mut self, allowed: u32, skipped: u32) -> Result {
        self.status.allow(allowed, skipped)
    }

    /// Prepares for updates that come before the norm of the gradient is known ([`LinearUpdates`]): a loss that is not finite
    /// stops them.
    pub fn begin(&mut self, loss: &Tensor) -> Result {
        self.squares.fill_zero()?;
        step::begin(loss, &mut self.status)
    }

    /// Finds the norm of the gradient, decides on the update, and writes the step's record.
    ///
    /// A step whose loss or gradient is not finite updates nothing; after more of them than [`Optimizer::skip`] allows no
    /// step does.
    pub fn judge(
        &mut self,
        state: &State,
        loss: &Tensor,
        metrics: &mut Metrics,
        learner: &mut Learner,
        model: &mut Model,
    ) -> Result {
        let mut first = self.kept;
        let mut add = |gradient: &Tensor| -> Result {
            clip::squares(gradient, &mut self.squares, first)?;
            first += clip::sums(gradient.len());
            Ok(())
        };
        match (&self.whole, learner.whole()) {
            (Some(_), Some(whole)) => add(&whole.gradient),
            _ => learner.parameters(model).iter().filter_map(|p| p.gradient.as_deref()).try_for_each(add),
        }?;
        step::judge(loss, &self.squares, state, &mut self.status, metrics)
    }

    /// Updates the parameters whose gradients are kept, and zeroes those.
    pub fn apply(&mut self, state: &State, learner: &mut Learner, model: &mut Model) -> Result {
        let Optimizer { moments, whole, status, seed, .. } = self;
        let update = |stream: usize, w: &mut Tensor, g: &mut Tensor, moments: &mut Moments, rounded| -> Result {
            let rounding = Rounding { seed: *seed, stream: stream as u32 };
            adamw::update_from(state, status, rounding, w, g, moments, rounded)?;
            Ok(g.fill_zero()?)
        };
        if let (Some(moments), Some(whole)) = (whole, learner.whole()) {
            return update(0, &mut whole.values, &mut whole.gradient, moments, None);
        }
        for (i, (p, moments)) in learner.parameters(model).into_iter().zip(moments).enumerate() {
            let Some(gradient) = p.gradient else { continue };
            update(i, p.master, gradient, moments, p.rounded)?;
        }
        Ok(())
    }
}

/// Moments of one vector, and those of its parts.
fn moments_in_one(gpu: &Gpu, shapes: &[Vec<usize>]) -> Result<(Moments, Vec<Moments>)> {
    let [(m, first), (v, second)] = [Tensor::parts(gpu, DType::F32, shapes)?, Tensor::parts(gpu, DType::F32, shapes)?];
    Ok((Moments::of(m, v), first.into_iter().zip(second).map(|(m, v)| Moments::of(m, v)).collect()))
}

/// What becomes of the gradients of linear layers that learn at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// They are added to the norm, and nothing changes: a clip must know it first.
    Measure,
    /// They are added to the norm, and the weights change.
    Update,
}

/// The linear layers of a block that learn at once, as a backward pass comes by.
pub struct LinearUpdates<'a> {
    optimizer: &'a mut Optimizer,
    state: &'a State,
    pass: Pass,
    block: Option<(usize, &'a mut PerProjection<Option<Tensor>>)>,
}

impl<'a> LinearUpdates<'a> {
    /// For the blocks of one pass.
    pub fn new(optimizer: &'a mut Optimizer, state: &'a State, pass: Pass) -> LinearUpdates<'a> {
        LinearUpdates { optimizer, state, pass, block: None }
    }

    /// Goes on with the block whose linear layers are the parameters from `first` on, and have these master copies.
    pub fn of_block(&mut self, first: usize, masters: &'a mut PerProjection<Option<Tensor>>) {
        self.block = Some((first, masters));
    }
}

impl LinearUpdates<'_> {
    /// The embedding, which is the first parameter, from the gradient `dy` of its output. `master` is its copy, if it has one.
    pub fn learn_embedding(
        &mut self,
        table: &mut Tensor,
        master: &mut Option<Tensor>,
        dy: &Tensor,
        ids: &Tensor,
    ) -> Result {
        let Optimizer { moments, squares, status, seed, .. } = &mut *self.optimizer;
        let (w, copy) = match master {
            Some(master) => (master, Some(table)),
            None => (table, None),
        };
        match self.pass {
            Pass::Measure => adamw::measure_embedding(dy, ids, w, &moments[0], squares),
            Pass::Update => {
                let rounding = Rounding { seed: *seed, stream: 0 };
                adamw::update_embedding(self.state, status, rounding, dy, ids, w, &mut moments[0], copy, squares)
            }
        }
    }
}

impl LearnLinear for LinearUpdates<'_> {
    fn learn(
        &mut self,
        layers: &[(Projection, &Tensor)],
        weights: &mut PerProjection<Weight>,
        x: &Tensor,
        mut dx: Option<&mut Tensor>,
    ) -> Result {
        let Optimizer { moments, squares, status, seed, .. } = &mut *self.optimizer;
        let cannot = |what: String| OpError::Value { op: "step", message: format!("{what} cannot learn") };
        let (first, masters) = self.block.as_mut().ok_or_else(|| cannot("no block".into()))?;
        if let (Pass::Measure, Some(dx)) = (self.pass, &mut dx) {
            let products: Vec<_> = layers.iter().map(|&(projection, dy)| (dy, &weights[projection])).collect();
            linear::backward_inputs(&products, dx)?;
        }
        let mut learning = vec![];
        let each = weights.iter_mut().zip(masters.iter_mut()).zip(&mut moments[*first..]).enumerate();
        for (i, (((projection, weight), (_, master)), moments)) in each {
            let Some(place) = layers.iter().position(|(of, _)| *of == projection) else { continue };
            let Weight::Dense(weight) = weight else { return Err(cannot(projection.to_string())) };
            let (w, copy) = match master {
                Some(master) => (master, Some(weight)),
                None => (weight, None),
            };
            let rounding = Rounding { seed: *seed, stream: (*first + i) as u32 };
            learning.push((place, LinearLayer { dy: layers[place].1, w, moments, copy, rounding }));
        }
        learning.sort_by_key(|(place, _)| *place);
        let mut learning: Vec<_> = learning.into_iter().map(|(_, layer)| layer).collect();
        match self.pass {
            Pass::Update => adamw::update_linears(self.state, status, &mut learning, x, dx, squares),
            Pass::Measure => learning.iter().try_for_each(|l| adamw::measure_linear(l.dy, x, l.w, l.moments, squares)),
        }
    }
}
