//! The backward pass of a block: the forward pass read from the bottom, each line its gradient.

use super::PerProjection;
use super::activations::{Activations, Scratch};
use super::adapters::{Adapted, BlockAdapters};
use super::config::{Projection, Projection::*};
use super::forward::Context;
use super::model::Block;
use crate::device::Tensor;
use crate::ops::linear::Weight;
use crate::ops::{Result, attention, linear, lora, rmsnorm, rope, swiglu};

/// Where the gradients of a block's parameters are added. What does not learn has no place.
pub enum BlockGradients<'a> {
    /// Nothing in this block learns.
    Frozen,
    /// The adapters learn: those that the block's passes use, and no others, have a place here.
    Adapters(&'a mut BlockAdapters),
    /// All weights learn.
    Weights(&'a mut WeightGradients),
    /// All weights learn, and those of the linear layers at once: no gradient of theirs is kept.
    AtOnce {
        /// `[hidden]`.
        input_norm: &'a mut Tensor,
        /// `[hidden]`.
        post_norm: &'a mut Tensor,
        /// Takes the linear layers' part.
        linear: &'a mut dyn LearnLinear,
    },
}

/// What is done with the gradients of linear layers' weights instead of keeping them. The weights are not needed any more in the
/// pass, and may change.
pub trait LearnLinear {
    /// Of layers that read the same x, each with the gradient dy of its output: the gradient of a weight is `dy^T x`. Before they
    /// change they give `dx`, the sum of all `dy W`, if it is wanted.
    fn learn(
        &mut self,
        layers: &[(Projection, &Tensor)],
        weights: &mut PerProjection<Weight>,
        x: &Tensor,
        dx: Option<&mut Tensor>,
    ) -> Result;
}

/// f32 gradients of all of a block's weights.
pub struct WeightGradients {
    /// `[hidden]`.
    pub input_norm: Tensor,
    /// `[hidden]`.
    pub post_norm: Tensor,
    /// Each `[out, in]`.
    pub linear: PerProjection<Tensor>,
}

impl BlockGradients<'_> {
    fn input_norm(&mut self) -> Option<&mut Tensor> {
        match self {
            BlockGradients::Weights(w) => Some(&mut w.input_norm),
            BlockGradients::AtOnce { input_norm, .. } => Some(input_norm),
            BlockGradients::Frozen | BlockGradients::Adapters(_) => None,
        }
    }

    fn post_norm(&mut self) -> Option<&mut Tensor> {
        match self {
            BlockGradients::Weights(w) => Some(&mut w.post_norm),
            BlockGradients::AtOnce { post_norm, .. } => Some(post_norm),
            BlockGradients::Frozen | BlockGradients::Adapters(_) => None,
        }
    }
}

/// One linear layer's part of a backward pass.
struct LinearBackward<'a, 'g> {
    weights: &'a mut PerProjection<Weight>,
    adapters: Option<Adapted<'a>>,
    low_rank: &'a PerProjection<Tensor>,
    gradients: BlockGradients<'g>,
}

impl LinearBackward<'_, '_> {
    /// Of layers that read the same x, each with the gradient dy of its output, `y = x W^T + lora(x)`: gradients of the
    /// parameters, and `dx`, the sum of all, if it is wanted.
    fn run(
        &mut self,
        layers: &[(Projection, &Tensor)],
        x: &Tensor,
        mut dx: Option<&mut Tensor>,
        dlow_rank: &mut PerProjection<Tensor>,
    ) -> Result {
        if let BlockGradients::AtOnce { linear, .. } = &mut self.gradients {
            return linear.learn(layers, self.weights, x, dx);
        }
        if let Some(dx) = &mut dx {
            let products: Vec<_> = layers.iter().map(|&(projection, dy)| (dy, &self.weights[projection])).collect();
            linear::backward_inputs(&products, dx)?;
        }
        if let BlockGradients::Weights(gradients) = &mut self.gradients {
            for &(projection, dy) in layers {
                linear::backward_weight(dy, x, &mut gradients.linear[projection])?;
            }
        }
        let BlockGradients::Adapters(gradients) = &mut self.gradients else { return Ok(()) };
        let mut branches = vec![];
        for ((projection, ds), (_, gradient)) in dlow_rank.iter_mut().zip(gradients.iter_mut()) {
            let dy = layers.iter().find(|(of, _)| *of == projection).map(|(_, dy)| *dy);
            let factors = self.adapters.and_then(|a| a.factors(projection));
            let (Some(dy), Some(factors), Some(g)) = (dy, factors, gradient) else { continue };
            let s = &self.low_rank[projection];
            branches.push(lora::Branch { dy, s, factors, ds, da: &mut g.a, db: &mut g.b });
        }
        if branches.is_empty() {
            return Ok(());
        }
        lora::backward_all(x, &mut branches, dx)
    }
}

impl Block {
    /// Turns `gradient`, of the block's output, into the gradient of its input, and adds those of its parameters.
    ///
    /// `input` and `kept` are what [`Block::forward`] saw and left. Where nothing below learns,
    /// `input_gradient` is false: then `gradient` is left in an unfinished state, and the products that only it
    /// needs are not computed. The block itself changes where weights [learn at once](BlockGradients::AtOnce) alone.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &mut self,
        context: Context,
        adapters: Option<Adapted>,
        input: &Tensor,
        kept: &Activations,
        gradient: &mut Tensor,
        scratch: &mut Scratch,
        gradients: BlockGradients,
        input_gradient: bool,
    ) -> Result {
        let Context { config, rope, sequences } = context;
        let Scratch { dq, dk, dv, dattended, delta, dnormed, dgate, dup, dgated, dlow_rank: ds } = scratch;
        let Block { input_norm, post_norm, linear: weights } = self;
        let mut linear = LinearBackward { weights, adapters, low_rank: &kept.low_rank, gradients };

        // output = middle + down(silu(gate) * up)
        linear.run(&[(Down, &*gradient)], &kept.gated, Some(dgated), ds)?;
        swiglu::backward(dgated, &kept.gate, &kept.up, dgate, dup)?;
        linear.run(&[(Up, &*dup), (Gate, &*dgate)], &kept.mlp_input, Some(dnormed), ds)?;
        let (weight, inv_rms) = (&*post_norm, &kept.middle_inv_rms);
        rmsnorm::backward(dnormed, &kept.middle, weight, inv_rms, gradient, linear.gradients.post_norm())?;

        // middle = input + o(attention(rope(q), rope(k), v))
        linear.run(&[(O, &*gradient)], &kept.attended, Some(dattended), ds)?;
        let (q, k, v, o, lse) = (&kept.q, &kept.k, &kept.v, &kept.attended, &kept.log_sum_exp);
        attention::backward(dattended, q, k, v, o, lse, sequences, context.heads(), dq, dk, dv, delta)?;
        rope::backward_both(dq, dk, sequences.positions(), rope, config.head_dim)?;
        let dx = input_gradient.then_some(&mut *dnormed);
        linear.run(&[(V, &*dv), (K, &*dk), (Q, &*dq)], &kept.attention_input, dx, ds)?;
        if input_gradient {
            let (weight, inv_rms) = (&*input_norm, &kept.input_inv_rms);
            rmsnorm::backward(dnormed, input, weight, inv_rms, gradient, linear.gradients.input_norm())?;
        }
        Ok(())
    }
}
