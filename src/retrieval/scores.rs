//! Ranks of relevant candidates, and the retrieval metrics that follow from them.
//!
//! Ties count as wrong: a candidate that is not relevant and scores as high as a relevant one stands before it. A
//! model that gives every text the same embedding so ranks last, not first.

use super::Embeddings;
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::ops::OpError;
use crate::ops::gemm::{self, Layout};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};

/// Queries and candidates that cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// There are no queries, or no candidates.
    #[error("retrieval: no {0} to score")]
    Empty(&'static str),
    /// Two sizes that belong together differ.
    #[error("retrieval: {what}: expected {expected}, found {found}")]
    Length {
        /// What is counted.
        what: &'static str,
        /// The number that fits.
        expected: usize,
        /// What was found.
        found: usize,
    },
    /// A query's relevant candidates are none, doubled, or not among the candidates.
    #[error("retrieval: query {query}: {message}")]
    Relevance {
        /// 0-based query.
        query: usize,
        /// What is wrong.
        message: String,
    },
    /// A score is not a number.
    #[error("retrieval: query {query} scores NaN against candidate {candidate}: its embeddings are not finite")]
    NotANumber {
        /// 0-based query.
        query: usize,
        /// 0-based candidate.
        candidate: usize,
    },
    /// The similarity could not be computed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Where one query's relevant candidates ended up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ranking {
    /// 1-based positions of the relevant candidates, ascending.
    pub positions: Vec<usize>,
    /// The candidate of the highest score; the lowest index where several share it.
    pub top: usize,
}

impl Ranking {
    /// Position of the best relevant candidate: 1 plus the number of others that score at least as high.
    pub fn rank(&self) -> usize {
        self.positions[0]
    }

    /// Ranks between the best and the worst relevant candidate, a measure of language bias where the relevant
    /// candidates are translations of each other.
    pub fn distance(&self) -> usize {
        self.positions[self.positions.len() - 1] - self.positions[0]
    }

    fn of(scores: &[f32], relevant: &[usize]) -> Ranking {
        let mut wanted: Vec<f32> = relevant.iter().map(|&c| scores[c]).collect();
        wanted.sort_unstable_by(|a, b| b.total_cmp(a));
        // stands_before[i]: scores that reach the i-th best relevant score but not the one above it.
        let first_reached = |score: f32| wanted.partition_point(|&w| w > score);
        let mut stands_before = vec![0usize; wanted.len() + 1];
        let mut top = 0;
        for (c, &score) in scores.iter().enumerate() {
            stands_before[first_reached(score)] += 1;
            if score > scores[top] {
                top = c;
            }
        }
        for &score in &wanted {
            stands_before[first_reached(score)] -= 1;
        }
        let mut before = 0;
        let position = |(i, n): (usize, &usize)| {
            before += n;
            before + i + 1
        };
        Ranking { positions: stands_before[..wanted.len()].iter().enumerate().map(position).collect(), top }
    }
}

/// What is asked of a ranking. Binary relevance throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Metric {
    /// 1 where any relevant candidate is among the first k. `HitRate(1)` is accuracy@1.
    HitRate(usize),
    /// Share of the relevant candidates that are among the first k. Equals the hit rate where only one is relevant.
    Recall(usize),
    /// 1 / rank of the best relevant candidate, 0 beyond the first k (`usize::MAX`: no limit).
    ReciprocalRank(usize),
    /// Discounted cumulative gain of the first k, `sum of 1 / log2(1 + position)`, over the best possible.
    Ndcg(usize),
    /// Mean, over the relevant candidates, of the precision at their positions.
    AveragePrecision,
}

impl Metric {
    /// Accuracy@1: a relevant candidate comes first.
    pub const ACCURACY: Metric = Metric::HitRate(1);

    /// What reports show.
    pub const USUAL: [Metric; 6] = [
        Metric::ACCURACY,
        Metric::Recall(5),
        Metric::Recall(10),
        Metric::ReciprocalRank(10),
        Metric::Ndcg(10),
        Metric::AveragePrecision,
    ];

    /// The value for one query, between 0 and 1.
    pub fn of(self, ranking: &Ranking) -> f64 {
        let positions = &ranking.positions;
        let relevant = positions.len() as f64;
        let within = |k: usize| positions.partition_point(|&p| p <= k);
        match self {
            Metric::HitRate(k) => f64::from(u8::from(ranking.rank() <= k)),
            Metric::Recall(k) => within(k) as f64 / relevant,
            Metric::ReciprocalRank(k) if ranking.rank() > k => 0.0,
            Metric::ReciprocalRank(_) => 1.0 / ranking.rank() as f64,
            Metric::Ndcg(k) => {
                let gain: f64 = positions[..within(k)].iter().map(|&p| discount(p)).sum();
                gain / best_gain(positions.len(), k)
            }
            Metric::AveragePrecision => {
                let precision = |(i, &p): (usize, &usize)| (i + 1) as f64 / p as f64;
                positions.iter().enumerate().map(precision).sum::<f64>() / relevant
            }
        }
    }

    /// The expected value for one query when the candidates stand in random order. `relevant` is at least 1.
    pub fn chance(self, relevant: usize, candidates: usize) -> f64 {
        let (r, n) = (relevant as f64, candidates as f64);
        // Goes through the positions up to k: the probability that the first relevant candidate stands there.
        let first_at = |k: usize| {
            (0..k.min(candidates)).scan(1.0, move |missed, i| {
                let hit = (r / (n - i as f64)).min(1.0);
                let here = *missed * hit;
                *missed *= 1.0 - hit;
                Some(here)
            })
        };
        match self {
            Metric::HitRate(k) => first_at(k).sum(),
            Metric::Recall(k) => k.min(candidates) as f64 / n,
            Metric::ReciprocalRank(k) => first_at(k).enumerate().map(|(i, p)| p / (i + 1) as f64).sum(),
            Metric::Ndcg(k) => (1..=k.min(candidates)).map(discount).sum::<f64>() * r / n / best_gain(relevant, k),
            Metric::AveragePrecision => {
                // Each position i holds a relevant candidate with probability r/n; each of the i - 1 before it is
                // relevant too with probability (r-1)/(n-1).
                let harmonic: f64 = (1..=candidates).map(|i| 1.0 / i as f64).sum();
                let others = if candidates > 1 { (r - 1.0) / (n - 1.0) } else { 0.0 };
                (harmonic + others * (n - harmonic)) / n
            }
        }
    }
}

impl Display for Metric {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Metric::HitRate(1) => write!(f, "accuracy@1"),
            Metric::HitRate(k) => write!(f, "hit rate@{k}"),
            Metric::Recall(k) => write!(f, "recall@{k}"),
            Metric::ReciprocalRank(usize::MAX) => write!(f, "MRR"),
            Metric::ReciprocalRank(k) => write!(f, "MRR@{k}"),
            Metric::Ndcg(k) => write!(f, "nDCG@{k}"),
            Metric::AveragePrecision => write!(f, "mAP"),
        }
    }
}

/// Weight of a 1-based position.
fn discount(position: usize) -> f64 {
    1.0 / (1.0 + position as f64).log2()
}

/// The gain when the relevant candidates come first.
fn best_gain(relevant: usize, k: usize) -> f64 {
    (1..=relevant.min(k)).map(discount).sum()
}

/// The rankings of a set of queries over the same candidates.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// One ranking a query, in the order of the queries.
    pub rankings: Vec<Ranking>,
    /// Number of candidates.
    pub candidates: usize,
}

impl Scores {
    /// Ranks by cosine. `relevance[q]` lists the corpus rows that answer query `q`, at least one.
    pub fn of(
        device: &Device,
        queries: &Embeddings,
        corpus: &Embeddings,
        relevance: &[Vec<usize>],
    ) -> Result<Scores, ScoreError> {
        check(queries.len(), corpus.len(), relevance)?;
        same("columns of the corpus", queries.width(), corpus.width())?;
        let (width, candidates) = (queries.width(), corpus.len());
        let corpus = Tensor::from_slice(device, corpus.values(), &[candidates, width])?;
        let rows = QUERIES_AT_ONCE.min(queries.len());
        let mut chunk = Tensor::zeros(device, DType::F32, &[rows, width])?;
        let mut similarity = Tensor::zeros(device, DType::F32, &[rows, candidates])?;
        let mut rankings = Vec::with_capacity(queries.len());
        for (values, relevance) in queries.values().chunks(rows * width).zip(relevance.chunks(rows)) {
            chunk.set_rows(relevance.len())?;
            similarity.set_rows(relevance.len())?;
            chunk.write(values)?;
            gemm::gemm(Layout::Nt, &chunk, &corpus, &mut similarity, false)?;
            rankings.extend(rank(&similarity.to_vec()?, relevance, rankings.len())?);
        }
        Ok(Scores { rankings, candidates })
    }

    /// Ranks by given scores, `[queries, candidates]`, higher is better.
    pub fn from_similarity(
        similarity: &[f32],
        candidates: usize,
        relevance: &[Vec<usize>],
    ) -> Result<Scores, ScoreError> {
        check(relevance.len(), candidates, relevance)?;
        same("scores", relevance.len() * candidates, similarity.len())?;
        Ok(Scores { rankings: rank(similarity, relevance, 0)?, candidates })
    }

    /// A metric for each query, in order: what intervals and tests are made from.
    pub fn per_query(&self, metric: Metric) -> Vec<f64> {
        self.rankings.iter().map(|r| metric.of(r)).collect()
    }

    /// Whether each query's first candidate is relevant, in order: what McNemar's test compares.
    pub fn correct(&self) -> Vec<bool> {
        self.rankings.iter().map(|r| r.rank() == 1).collect()
    }

    /// The mean of a metric over the queries.
    pub fn mean(&self, metric: Metric) -> f64 {
        self.per_query(metric).iter().sum::<f64>() / self.rankings.len() as f64
    }

    /// What the mean would be for candidates in random order.
    pub fn chance(&self, metric: Metric) -> f64 {
        let mut sizes = BTreeMap::new();
        self.rankings.iter().for_each(|r| *sizes.entry(r.positions.len()).or_insert(0) += 1);
        let total: f64 = sizes.iter().map(|(&size, &n)| f64::from(n) * metric.chance(size, self.candidates)).sum();
        total / self.rankings.len() as f64
    }
}

/// Bounds the similarity held in memory: 27 MB against the 13,014 sentences of XQuAD-R.
const QUERIES_AT_ONCE: usize = 512;

fn rank(similarity: &[f32], relevance: &[Vec<usize>], first_query: usize) -> Result<Vec<Ranking>, ScoreError> {
    let candidates = similarity.len() / relevance.len();
    let rows = similarity.par_chunks(candidates).zip(relevance).enumerate();
    rows.map(|(q, (scores, relevant))| match scores.iter().position(|s| s.is_nan()) {
        Some(candidate) => Err(ScoreError::NotANumber { query: first_query + q, candidate }),
        None => Ok(Ranking::of(scores, relevant)),
    })
    .collect::<Vec<_>>()
    // Collected in order first: of several bad queries, the error names the first, whatever the threads did.
    .into_iter()
    .collect()
}

fn check(queries: usize, candidates: usize, relevance: &[Vec<usize>]) -> Result<(), ScoreError> {
    if queries == 0 {
        return Err(ScoreError::Empty("queries"));
    }
    if candidates == 0 {
        return Err(ScoreError::Empty("candidates"));
    }
    same("lists of relevant candidates", queries, relevance.len())?;
    for (query, relevant) in relevance.iter().enumerate() {
        let refuse = |message| Err(ScoreError::Relevance { query, message });
        let mut sorted = relevant.clone();
        sorted.sort_unstable();
        match sorted.last() {
            None => return refuse("no relevant candidate".into()),
            Some(last) if *last >= candidates => {
                return refuse(format!("relevant candidate {last}, but there are {candidates}"));
            }
            _ => {}
        }
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            return refuse(format!("relevant candidate {} is listed twice", twice[0]));
        }
    }
    Ok(())
}

fn same(what: &'static str, expected: usize, found: usize) -> Result<(), ScoreError> {
    if found != expected { Err(ScoreError::Length { what, expected, found }) } else { Ok(()) }
}
