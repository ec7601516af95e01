//! How a group's words lie under the model: before training, while it runs, and after.

use super::batch::Group;
use crate::device::Device;
use crate::formats::pairs::Pair;
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::model::Model;
use crate::ops::pooling::Pooling;
use crate::retrieval::embed::{EmbedError, embed};
use crate::retrieval::words::{self, Alignment, WordsError};

/// Why a group could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The texts could not be embedded.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// The embeddings could not be judged.
    #[error(transparent)]
    Words(#[from] WordsError),
}

/// One group of pairs, ready to be measured under any state of the model.
pub struct Probe<'a> {
    group: &'a Group,
    words: words::Group,
    pooling: Pooling,
}

impl<'a> Probe<'a> {
    /// `all` are the pairs of every group: a translation listed anywhere counts as right.
    pub fn new(group: &'a Group, all: &[Pair], pooling: Pooling) -> Result<Probe<'a>, EvaluateError> {
        let texts =
            |pairs: &'a [Pair]| pairs.iter().map(|p| (p.source.as_str(), p.target.as_str())).collect::<Vec<_>>();
        let listed: Vec<(&str, &str)> = all.iter().map(|p| (p.source.as_str(), p.target.as_str())).collect();
        Ok(Probe { group, words: words::Group::new(&texts(&group.pairs), &listed)?, pooling })
    }

    /// The group's alignment at each of `layers`.
    pub fn measure(
        &self,
        model: &Model,
        adapters: Option<&Adapters>,
        layers: &[Layer],
    ) -> Result<Vec<Alignment>, EvaluateError> {
        let texts: Vec<&[u32]> = self.group.sources.iter().chain(&self.group.targets).map(Vec::as_slice).collect();
        let n = self.group.len();
        let (sources, targets): (Vec<usize>, Vec<usize>) = ((0..n).collect(), (n..2 * n).collect());
        let embeddings = embed(model, adapters, &texts, layers, self.pooling, |_| {})?;
        let measure = |e: &crate::retrieval::Embeddings| {
            Ok(self.words.measure(&Device::Cpu, &e.select(&sources), &e.select(&targets))?)
        };
        embeddings.iter().map(measure).collect()
    }
}
