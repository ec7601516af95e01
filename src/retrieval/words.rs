//! How well the words of two languages align: cosines of pairs against those of shuffled pairs, and retrieval of
//! translations.
//!
//! The cosine of pairs alone proves nothing, since it also rises where every embedding moves to one point
//! ([`Collapse`]). What separates the two is the cosine of words that do not translate each other.

use super::Embeddings;
use super::embeddings::dot;
use super::scores::{Metric, ScoreError, Scores};
use super::statistics::{Bootstrap, Change, Estimate, McNemar, StatisticsError};
use crate::device::Device;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Word pairs that cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum WordsError {
    /// There is no pair at all.
    #[error("word pairs: the group is empty")]
    Empty,
    /// The number of embeddings is not the number of pairs.
    #[error("word pairs: {pairs} pairs, but {found} {side} embeddings")]
    Length {
        /// Source or target.
        side: &'static str,
        /// Number of pairs.
        pairs: usize,
        /// Number of embeddings.
        found: usize,
    },
    /// The embeddings of the two sides differ in width.
    #[error("word pairs: source embeddings have {source_width} columns, target embeddings {target_width}")]
    Width {
        /// Columns of the source side.
        source_width: usize,
        /// Columns of the target side.
        target_width: usize,
    },
    /// Every target word of the group translates this source word.
    #[error("word pairs: pair {pair}: every target word of the group is listed for {word:?}: a larger group is needed")]
    NoOther {
        /// 0-based pair.
        pair: usize,
        /// Its source word.
        word: String,
    },
    /// Two measurements are of groups of different size.
    #[error("word pairs: {before} pairs before, {after} after")]
    Groups {
        /// Pairs before.
        before: usize,
        /// Pairs after.
        after: usize,
    },
    /// Retrieval failed.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The statistics failed.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

type Result<T> = std::result::Result<T, WordsError>;

/// Word pairs that are judged together, and who translates whom among them.
#[derive(Clone, Debug)]
pub struct Group {
    /// For each pair, the pairs whose target word translates its source word, itself among them.
    translations: Vec<Vec<usize>>,
    sources: Vec<String>,
    to_target: Search,
    to_source: Search,
}

/// Retrieval in one direction: each pair's word of one side among the distinct words of the other.
#[derive(Clone, Debug)]
struct Search {
    /// For each candidate, the first pair that holds it.
    candidates: Vec<usize>,
    /// For each pair, the candidates that are right.
    relevance: Vec<Vec<usize>>,
}

impl Group {
    /// From pairs of (source word, target word), in order. `listed` adds translations known from elsewhere, such as
    /// the other splits of the same list; words are compared as they are written.
    pub fn new<'a>(pairs: &[(&'a str, &'a str)], listed: &[(&'a str, &'a str)]) -> Result<Group> {
        if pairs.is_empty() {
            return Err(WordsError::Empty);
        }
        let known: HashSet<(&str, &str)> = pairs.iter().chain(listed).copied().collect();
        let flip = |&(source, target): &(&'a str, &'a str)| (target, source);
        let flipped: Vec<_> = pairs.iter().map(flip).collect();
        let to_target = Search::new(pairs, &known);
        let to_source = Search::new(&flipped, &known.iter().map(flip).collect());

        let mut holders: HashMap<&str, Vec<usize>> = HashMap::new();
        pairs.iter().enumerate().for_each(|(i, (_, target))| holders.entry(target).or_default().push(i));
        let holders_of = |&c: &usize| holders[pairs[to_target.candidates[c]].1].iter().copied();
        let translations: Vec<Vec<usize>> =
            to_target.relevance.iter().map(|right| right.iter().flat_map(holders_of).collect()).collect();
        if let Some(pair) = translations.iter().position(|t| t.len() == pairs.len()) {
            return Err(WordsError::NoOther { pair, word: pairs[pair].0.into() });
        }
        Ok(Group { translations, sources: pairs.iter().map(|p| p.0.into()).collect(), to_target, to_source })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Never: a group has at least two pairs.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Measures the group under a model; row `i` of each side is the embedding of pair `i`'s word.
    pub fn measure(&self, device: &Device, source: &Embeddings, target: &Embeddings) -> Result<Alignment> {
        for (side, embeddings) in [("source", source), ("target", target)] {
            if embeddings.len() != self.len() {
                return Err(WordsError::Length { side, pairs: self.len(), found: embeddings.len() });
            }
        }
        if source.width() != target.width() {
            return Err(WordsError::Width { source_width: source.width(), target_width: target.width() });
        }
        let (cosines, others) = self.cosines(source, target);
        let count = |i: usize| (self.len() - self.translations[i].len()) as f64;
        let margins = (0..self.len()).map(|i| cosines[i] - others[i] / count(i)).collect();
        let shuffled_cosine = others.iter().sum::<f64>() / (0..self.len()).map(count).sum::<f64>();
        Ok(Alignment {
            pair_cosine: cosines.iter().sum::<f64>() / self.len() as f64,
            shuffled_cosine,
            cosines,
            margins,
            to_target: self.to_target.run(device, source, target)?,
            to_source: self.to_source.run(device, target, source)?,
        })
    }

    /// For each pair its cosine, and the sum of the cosines of its source word and all words that do not translate
    /// it. That sum is exact and costs no n x n matrix: the dot product is linear, so the sum over all targets is
    /// one dot product with their sum.
    fn cosines(&self, source: &Embeddings, target: &Embeddings) -> (Vec<f64>, Vec<f64>) {
        let all = target.sum();
        let pair = |i: usize| {
            let word = source.row(i);
            let with_all: f64 = word.iter().zip(&all).map(|(&w, t)| f64::from(w) * t).sum();
            let with_translations: f64 = self.translations[i].iter().map(|&j| dot(word, target.row(j))).sum();
            (dot(word, target.row(i)), with_all - with_translations)
        };
        (0..self.len()).map(pair).unzip()
    }
}

impl Search {
    fn new(pairs: &[(&str, &str)], known: &HashSet<(&str, &str)>) -> Search {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut candidates = Vec::new();
        for (i, &(_, word)) in pairs.iter().enumerate() {
            places.entry(word).or_insert_with(|| {
                candidates.push(i);
                candidates.len() - 1
            });
        }
        let mut right: HashMap<&str, Vec<usize>> = HashMap::new();
        for (query, word) in known {
            if let Some(&place) = places.get(word) {
                right.entry(query).or_default().push(place);
            }
        }
        // The set gives them in no fixed order, and sums over them should not depend on it.
        right.values_mut().for_each(|places| places.sort_unstable());
        Search { relevance: pairs.iter().map(|(query, _)| right[query].clone()).collect(), candidates }
    }

    fn run(&self, device: &Device, queries: &Embeddings, words: &Embeddings) -> Result<Scores> {
        Ok(Scores::of(device, queries, &words.select(&self.candidates), &self.relevance)?)
    }
}

/// How a group's words lie under one model.
#[derive(Clone, Debug, Serialize)]
pub struct Alignment {
    /// Mean cosine of the pairs.
    pub pair_cosine: f64,
    /// Mean cosine of all combinations of a source and a target word that do not translate each other.
    pub shuffled_cosine: f64,
    /// For each pair, its cosine.
    pub cosines: Vec<f64>,
    /// For each pair, its cosine less the mean cosine of its source word and the words that do not translate it.
    pub margins: Vec<f64>,
    /// Each pair's source word among the group's distinct target words; any listed translation is right.
    pub to_target: Scores,
    /// Each pair's target word among the group's distinct source words.
    pub to_source: Scores,
}

impl Alignment {
    /// Word retrieval in one number: precision@1, the mean of both directions.
    pub fn precision_at_1(&self) -> f64 {
        (self.to_target.mean(Metric::ACCURACY) + self.to_source.mean(Metric::ACCURACY)) / 2.0
    }

    /// What [`Collapse`] is judged by.
    pub fn reading(&self) -> Reading {
        Reading { shuffled_cosine: self.shuffled_cosine, precision_at_1: self.precision_at_1() }
    }

    /// From before to after training. Both must be of the same group, in the same order.
    pub fn change(before: &Alignment, after: &Alignment, bootstrap: &Bootstrap) -> Result<AlignmentChange> {
        if before.cosines.len() != after.cosines.len() {
            return Err(WordsError::Groups { before: before.cosines.len(), after: after.cosines.len() });
        }
        let compare = |a: &[f64], b: &[f64]| Change::between(a, b, None, bootstrap);
        let search = |a: &Scores, b: &Scores| -> Result<SearchChange> {
            let metric = |m: Metric| compare(&a.per_query(m), &b.per_query(m));
            Ok(SearchChange {
                precision_at_1: metric(Metric::ACCURACY)?,
                chance: a.chance(Metric::ACCURACY),
                reciprocal_rank: metric(Metric::ReciprocalRank(usize::MAX))?,
                mcnemar: McNemar::of(&a.correct(), &b.correct())?,
            })
        };
        let others = |a: &Alignment| a.cosines.iter().zip(&a.margins).map(|(c, m)| c - m).collect::<Vec<_>>();
        Ok(AlignmentChange {
            cosine: compare(&before.cosines, &after.cosines)?,
            shuffled: [bootstrap.mean(&others(before))?, bootstrap.mean(&others(after))?],
            margin: compare(&before.margins, &after.margins)?,
            to_target: search(&before.to_target, &after.to_target)?,
            to_source: search(&before.to_source, &after.to_source)?,
        })
    }
}

/// What training did to a group. Intervals come from resampled pairs.
#[derive(Clone, Debug, Serialize)]
pub struct AlignmentChange {
    /// Cosines of the pairs.
    pub cosine: Change,
    /// Mean cosine of a source word and the words that do not translate it, before and after.
    pub shuffled: [Estimate; 2],
    /// Margins: what the pairs gained over the others.
    pub margin: Change,
    /// Retrieval, source to target.
    pub to_target: SearchChange,
    /// Retrieval, target to source.
    pub to_source: SearchChange,
}

/// What training did to word retrieval in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct SearchChange {
    /// Share of the queries whose nearest word is a translation.
    pub precision_at_1: Change,
    /// Precision@1 of a random order.
    pub chance: f64,
    /// 1 / rank of the best translation.
    pub reciprocal_rank: Change,
    /// The test of precision@1: first before, second after.
    pub mcnemar: McNemar,
}

/// What tells collapse from success.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Mean cosine of shuffled pairs.
    pub shuffled_cosine: f64,
    /// Word retrieval on pairs not trained on.
    pub precision_at_1: f64,
}

/// Whether training has moved all embeddings to one point.
///
/// It has where unrelated words lie less than half as far apart as before (distance: 1 - cosine), and retrieval on
/// the development pairs has not risen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Collapse {
    /// The verdict.
    pub collapsed: bool,
    /// Before training.
    pub before: Reading,
    /// After it, or so far.
    pub after: Reading,
}

impl Collapse {
    /// Judges two readings on the same development pairs.
    pub fn judge(before: Reading, after: Reading) -> Collapse {
        let (start, now) = (1.0 - before.shuffled_cosine, 1.0 - after.shuffled_cosine);
        let collapsed = now < 0.5 * start && after.precision_at_1 <= before.precision_at_1;
        Collapse { collapsed, before, after }
    }

    /// The verdict and its reasons in one sentence.
    pub fn explanation(&self) -> String {
        let Collapse { before, after, .. } = self;
        let verdict = if self.collapsed {
            "The embeddings have collapsed: unrelated words have moved together"
        } else {
            "The embeddings have not collapsed"
        };
        let cosines = format!("shuffled pairs' cosine {:.3} to {:.3}", before.shuffled_cosine, after.shuffled_cosine);
        let rise = if after.precision_at_1 > before.precision_at_1 { "has risen" } else { "has not risen" };
        format!(
            "{verdict} ({cosines}), and word retrieval {rise} (P@1 {:.3} to {:.3}).",
            before.precision_at_1, after.precision_at_1
        )
    }
}
