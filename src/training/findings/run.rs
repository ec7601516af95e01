//! What one training left, or the base model: figures small enough to keep, and the ranks of every question.

use crate::retrieval::ranks::{Ranks, Setting};
use crate::retrieval::words::Alignment;
use crate::training::arms::Arm;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a group's words lie, in little.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Words {
    /// Mean cosine of the pairs.
    pub pair_cosine: f64,
    /// Mean cosine of words that do not translate each other.
    pub shuffled_cosine: f64,
    /// Rank of the best translation of each source word, then of each target word.
    pub ranks: [Vec<usize>; 2],
    /// The cosine of each pair.
    #[serde(default)]
    pub cosines: Vec<f32>,
    /// For each pair, the mean cosine of its source word and the words that do not translate it.
    #[serde(default)]
    pub others: Vec<f32>,
}

impl Words {
    /// Of a measured group.
    pub fn of(alignment: &Alignment) -> Words {
        let ranks = [&alignment.to_target, &alignment.to_source].map(|s| s.rankings.iter().map(|r| r.rank()).collect());
        let others = alignment.cosines.iter().zip(&alignment.margins).map(|(cosine, margin)| (cosine - margin) as f32);
        Words {
            pair_cosine: alignment.pair_cosine,
            shuffled_cosine: alignment.shuffled_cosine,
            ranks,
            cosines: alignment.cosines.iter().map(|&c| c as f32).collect(),
            others: others.collect(),
        }
    }

    fn mean(&self, of: impl Fn(usize) -> f64) -> f64 {
        let all = self.ranks.iter().flatten();
        all.clone().map(|&rank| of(rank)).sum::<f64>() / all.count().max(1) as f64
    }

    /// Precision@1, both directions.
    pub fn precision_at_1(&self) -> f64 {
        self.mean(|rank| f64::from(u8::from(rank == 1)))
    }

    /// Mean reciprocal rank, both directions: what rates are chosen by.
    pub fn reciprocal_rank(&self) -> f64 {
        self.mean(|rank| 1.0 / rank as f64)
    }

    /// For each pair, the share of its two searches that find it at once.
    pub(super) fn hits(&self) -> Vec<f64> {
        let hit = |rank: &usize| f64::from(u8::from(*rank == 1));
        self.ranks[0].iter().zip(&self.ranks[1]).map(|(a, b)| (hit(a) + hit(b)) / 2.0).collect()
    }
}

/// One training, or the base model, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Peak learning rate; none for the base.
    pub learning_rate: Option<f64>,
    /// Parameters that learned.
    pub parameters: usize,
    /// Steps taken.
    pub steps: usize,
    /// Mean loss of the last epoch.
    pub final_loss: Option<f32>,
    /// Wall time of training alone, seconds.
    pub seconds: f64,
    /// Bytes of the plan.
    pub memory: usize,
    /// The embeddings have moved to one point.
    pub collapsed: bool,
    /// The development pairs by layer.
    pub dev: BTreeMap<String, Words>,
    /// The control pairs by layer.
    pub control: BTreeMap<String, Words>,
    /// Of the text given.
    pub perplexity: Option<f64>,
    /// Accuracy@1 on the primary endpoint at each layer, by what was done to the vectors: of the base alone.
    pub by_layer: BTreeMap<String, Vec<(String, f64)>>,
    /// Bytes held on the device at most while it trained, where the device counts.
    #[serde(default)]
    pub peak: Option<usize>,
    /// The loss of every step.
    #[serde(default)]
    pub losses: Vec<f32>,
    /// The first data set's languages among each other at each target layer, nothing done to the vectors.
    #[serde(default)]
    pub matrices: BTreeMap<String, Matrix>,
}

/// Accuracy@1 of questions in each language over passages in each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Matrix {
    /// Languages of the questions, and those of the passages.
    pub languages: [Vec<String>; 2],
    /// A row a language of questions; none where nothing is asked or found.
    pub accuracy: Vec<Vec<Option<f64>>>,
}

impl Matrix {
    /// Of accuracies by language of questions and of passages, in this order.
    pub fn of<'a>(cells: impl IntoIterator<Item = (&'a str, &'a str, f64)>) -> Matrix {
        let mut matrix = Matrix::default();
        for (questions, passages, accuracy) in cells {
            let [row, column] = [(0, questions), (1, passages)].map(|(side, code)| {
                let known = &mut matrix.languages[side];
                known.iter().position(|l| l == code).unwrap_or_else(|| {
                    known.push(code.into());
                    known.len() - 1
                })
            });
            matrix.accuracy.resize(matrix.accuracy.len().max(row + 1), vec![]);
            let cells = &mut matrix.accuracy[row];
            cells.resize(cells.len().max(column + 1), None);
            cells[column] = Some(accuracy);
        }
        matrix
    }

    /// The accuracy of questions in one language over passages in another.
    pub fn get(&self, questions: &str, passages: &str) -> Option<f64> {
        let place = |side: usize, code: &str| self.languages[side].iter().position(|l| l == code);
        *self.accuracy.get(place(0, questions)?)?.get(place(1, passages)?)?
    }
}

/// A run and the ranks of every question.
pub type Measured = (Run, BTreeMap<Setting, Ranks>);

/// All runs of an arm, and the base it began from.
pub struct ArmRuns<'a> {
    /// The arm.
    pub arm: Arm,
    /// Its target layer, as files name it.
    pub target: String,
    /// One a seed.
    pub runs: Vec<Measured>,
    /// The base model in the arm's precision.
    pub base: &'a Measured,
    /// Each learning rate tried, and the development pairs' mean reciprocal rank with it.
    pub rates: Vec<(f64, f64)>,
}

impl ArmRuns<'_> {
    /// What the target layer's words are like after each run.
    pub(super) fn words(&self) -> Vec<&Words> {
        self.runs.iter().filter_map(|(run, _)| run.control.get(&self.target)).collect()
    }
}
