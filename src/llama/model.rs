//! The weights of a Llama, or of the part of it that a plan needs.

use super::PerProjection;
use super::config::{Config, Projection, Quantization};
use crate::device::{DType, Device, Tensor};
use crate::ops::OpError;
use crate::ops::linear::Weight;
use crate::ops::rope;

/// How the linear weights of the blocks are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// 4-bit NormalFloat, one f32 scale for 64 weights.
    Nf4,
    /// The same with the scales quantised to 8 bits.
    Nf4Double,
}

impl Base {
    /// The precision of a checkpoint whose linear weights are 4-bit on disk.
    pub fn stored(quantization: &Quantization) -> Base {
        if quantization.double { Base::Nf4Double } else { Base::Nf4 }
    }

    /// True for 4 bits.
    pub fn is_quantised(self) -> bool {
        matches!(self, Base::Nf4 | Base::Nf4Double)
    }

    /// Element type of what is not quantised: the embedding, and the head.
    pub fn dtype(self) -> DType {
        match self {
            Base::F32 => DType::F32,
            _ => DType::Bf16,
        }
    }
}

crate::words::words! { Base: "base precision" { F32 = "f32", Bf16 = "bf16", Nf4 = "nf4", Nf4Double = "nf4-double" } }

/// The parts of a model that are read. The embedding always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Blocks, from the bottom.
    pub blocks: usize,
    /// Whether the final norm is.
    pub final_norm: bool,
    /// Whether the head is, where it is not tied to the embedding.
    pub head: bool,
}

impl Parts {
    /// True for a weight that these parts need, by its [name](names), and for what lies beside it where it is quantised.
    pub fn need(&self, name: &str) -> bool {
        match name {
            names::EMBEDDING => true,
            names::FINAL_NORM => self.final_norm,
            names::HEAD => self.head,
            other => names::block(other).is_some_and(|block| block < self.blocks),
        }
    }
}

/// What is read, and into what.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The parts of the model.
    pub parts: Parts,
    /// How linear weights are held.
    pub base: Base,
    /// Element type of activations.
    pub compute: DType,
    /// Where it goes.
    pub device: &'a Device,
    /// The longest sequence, in tokens.
    pub positions: usize,
}

/// Where weights come from, by Hugging Face's [names]: a checkpoint, or thin air.
pub trait Weights {
    /// Why one cannot be had.
    type Error: From<OpError>;
    /// A weight of `shape` in `dtype` (f32 or bf16).
    fn dense(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, Self::Error>;
    /// The weight of a linear layer, `[out, in]`, held as the [base](Options::base) says.
    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, Self::Error>;
}

/// A block's weights.
pub struct Block {
    /// Weight of the norm before attention, `[hidden]` f32.
    pub input_norm: Tensor,
    /// Weight of the norm before the MLP, `[hidden]` f32.
    pub post_norm: Tensor,
    /// The seven linear layers, each `[out, in]`.
    pub linear: PerProjection<Weight>,
}

/// The weights that were read. What a plan does not need is absent.
pub struct Model {
    /// The architecture.
    pub config: Config,
    /// Where the weights are.
    pub device: Device,
    /// Element type of activations.
    pub compute: DType,
    /// `[vocab, hidden]`, f32 or bf16.
    pub embedding: Tensor,
    /// Blocks `0..blocks.len()`.
    pub blocks: Vec<Block>,
    /// Weight of the final norm, `[hidden]` f32.
    pub final_norm: Option<Tensor>,
    /// The head, `[vocab, hidden]`, unless it is tied to the embedding or was not asked for.
    pub head: Option<Tensor>,
    /// Angles of the rotary embedding.
    pub rope: rope::Table,
}

impl Model {
    /// Asks for the weights of `options.parts`, from the bottom to the top.
    pub fn assemble<W: Weights>(config: &Config, options: Options, weights: &mut W) -> Result<Model, W::Error> {
        let Options { parts, base, compute, device, positions } = options;
        let hidden = config.hidden_size;
        let table = [config.vocab_size, hidden];
        let embedding = weights.dense(names::EMBEDDING, &table, base.dtype())?;
        let blocks = (0..parts.blocks).map(|block| Model::assemble_block(config, block, weights));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let final_norm = parts.final_norm.then(|| weights.dense(names::FINAL_NORM, &[hidden], DType::F32));
        let head = parts.head && !config.tie_word_embeddings;
        let head = head.then(|| weights.dense(names::HEAD, &table, base.dtype()));
        Ok(Model {
            embedding,
            blocks,
            final_norm: final_norm.transpose()?,
            head: head.transpose()?,
            rope: Model::rope_table(config, device, positions)?,
            config: config.clone(),
            device: device.clone(),
            compute,
        })
    }

    fn assemble_block<W: Weights>(config: &Config, block: usize, weights: &mut W) -> Result<Block, W::Error> {
        let norm = [config.hidden_size];
        Ok(Block {
            input_norm: weights.dense(&names::input_norm(block), &norm, DType::F32)?,
            post_norm: weights.dense(&names::post_norm(block), &norm, DType::F32)?,
            linear: PerProjection::try_from_fn(|p| weights.linear(&names::linear(block, p), config.shape(p)))?,
        })
    }

    /// Rotary angles for sequences of up to `positions` tokens.
    pub fn rope_table(config: &Config, device: &Device, positions: usize) -> crate::ops::Result<rope::Table> {
        let frequencies = rope::inverse_frequencies(config.rope_theta, config.head_dim, &config.rope_scaling);
        rope::Table::new(device, &frequencies, positions)
    }

    /// A block that was read.
    pub fn block(&self, block: usize) -> crate::ops::Result<&Block> {
        self.blocks.get(block).ok_or_else(|| crate::ops::OpError::Value {
            op: "model",
            message: format!("block {block} was not read: only the first {} were", self.blocks.len()),
        })
    }

    /// The matrix that turns `final` states into logits.
    pub fn head(&self) -> Option<&Tensor> {
        match &self.head {
            Some(head) => Some(head),
            None if self.config.tie_word_embeddings => Some(&self.embedding),
            None => None,
        }
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.tensors().map(Tensor::bytes).sum()
    }

    /// All weights.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let blocks = self.blocks.iter().flat_map(|b| {
            let linear = b.linear.iter().flat_map(|(_, w)| w.tensors());
            linear.chain([&b.input_norm, &b.post_norm])
        });
        let others = [self.final_norm.as_ref(), self.head.as_ref(), Some(&self.embedding)];
        blocks.chain(others.into_iter().flatten())
    }
}

/// Names of tensors in a Hugging Face checkpoint.
pub mod names {
    use super::{Config, Projection};

    /// The embedding table.
    pub const EMBEDDING: &str = "model.embed_tokens.weight";
    /// The final norm.
    pub const FINAL_NORM: &str = "model.norm.weight";
    /// The head.
    pub const HEAD: &str = "lm_head.weight";

    /// True for a tensor that a Llama computes with; old files also hold the angles of the rotary embedding.
    pub fn is_weight(name: &str) -> bool {
        !name.ends_with(".inv_freq")
    }

    /// Every weight of a model with its shape, from the bottom to the top.
    pub fn all(config: &Config) -> Vec<(String, Vec<usize>)> {
        let (table, norm) = (vec![config.vocab_size, config.hidden_size], vec![config.hidden_size]);
        let mut all = vec![(EMBEDDING.to_string(), table.clone())];
        for block in 0..config.layers {
            all.extend(Projection::ALL.map(|p| (linear(block, p), config.shape(p).to_vec())));
            all.push((input_norm(block), norm.clone()));
            all.push((post_norm(block), norm.clone()));
        }
        all.push((FINAL_NORM.to_string(), norm));
        if !config.tie_word_embeddings {
            all.push((HEAD.to_string(), table));
        }
        all
    }

    /// The block that a weight belongs to.
    pub fn block(name: &str) -> Option<usize> {
        name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
    }

    /// True for a norm's weight.
    pub fn is_norm(name: &str) -> bool {
        name == FINAL_NORM || name.ends_with("layernorm.weight")
    }

    /// The norm before attention.
    pub fn input_norm(block: usize) -> String {
        format!("model.layers.{block}.input_layernorm.weight")
    }

    /// The norm before the MLP.
    pub fn post_norm(block: usize) -> String {
        format!("model.layers.{block}.post_attention_layernorm.weight")
    }

    /// A linear layer, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub fn linear(block: usize, projection: Projection) -> String {
        format!("model.layers.{block}.{}.weight", projection.path())
    }
}
