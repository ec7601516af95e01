//! Which blocks of a model change most, by linear CKA (arXiv 2602.05988), for adapters in those alone.

use super::common;
use super::model::ModelFiles;
use crate::formats::safetensors::Checkpoint;
use crate::formats::weights::Options;
use crate::llama::model::Model;
use crate::llama::{Layer, Parts};
use crate::retrieval::pilot::{importance, most_important, states};
use crate::training::batch::Group;
use anyhow::{Result, ensure};

/// Texts that importance is computed from: their products are a square matrix.
pub const TEXTS: usize = 512;

/// A group's texts, source and target by turns, as many as are used.
pub fn texts(group: &Group) -> Vec<&[u32]> {
    let both = group.sources.iter().zip(&group.targets).flat_map(|(source, target)| [source, target]);
    both.take(TEXTS).map(Vec::as_slice).collect()
}

/// The states that importance compares, up to a target: `final` is the last block's output, as in the paper's code.
pub fn layers(target: Layer, blocks: usize) -> Vec<Layer> {
    let last = if target == Layer::Final { Layer::Final } else { Layer::Hidden(blocks) };
    (0..blocks).map(Layer::Hidden).chain([last]).collect()
}

/// 1 - linear CKA of the texts' last tokens before and behind each block below `target`.
pub fn of(model: &Model, texts: &[&[u32]], target: Layer, blocks: usize) -> Result<Vec<f64>> {
    Ok(importance(&states(model, texts, &layers(target, blocks))?))
}

/// Blocks that were chosen, and why.
pub struct Chosen {
    /// Ascending.
    pub blocks: Vec<usize>,
    /// In words.
    pub note: String,
}

/// The `count` blocks below `target` that change the texts' last tokens most. Reads the model up to there.
pub fn choose(
    count: usize,
    target: Layer,
    files: &ModelFiles,
    checkpoint: Option<&Checkpoint>,
    options: Options,
    texts: &[&[u32]],
) -> Result<Chosen> {
    let below = target.blocks(&files.config);
    ensure!(
        count <= below,
        "--blocks cka:{count}: the loss at {target} reaches {below} blocks; ask for fewer, or raise --target"
    );
    let parts = Parts { blocks: below, final_norm: target == Layer::Final, head: false };
    let bar = common::progress(1 + below * 9, "loading");
    let model = files.load(checkpoint, Options { parts, ..options }, |_| bar.inc(1))?;
    bar.finish_and_clear();
    let importance = of(&model, texts, target, below)?;
    let blocks = most_important(&importance, count);
    let named =
        blocks.iter().map(|&block| format!("{block} ({:.4})", importance[block])).collect::<Vec<_>>().join(", ");
    let note = format!(
        "--blocks cka:{count}: adapters go where a block changes the last token's state most (1 - linear CKA, of {} texts), of \
         {below} blocks that the loss reaches: {named}.",
        texts.len()
    );
    Ok(Chosen { blocks, note })
}
