//! What a comparison of arms found: tables, intervals, a verdict.
//!
//! The primary endpoint is fixed beforehand: the share of questions in other languages whose English passage comes first,
//! over all questions of the first data set, at the arm's own target layer, not centred, against the base model at that
//! same layer.

mod csv;
mod report;
mod run;
mod training;
mod verdict;

pub use self::csv::runs_csv;
pub use report::ReportError;
pub use run::{ArmRuns, Matrix, Measured, Run, Words};
pub use training::{Edge, Training};

use super::arms::Arm;
use crate::retrieval::comparison::{Difference, holm};
use crate::retrieval::ranks::{Ranks, Setting};
use crate::retrieval::statistics::{Bootstrap, Estimate, StatisticsError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A kind of retrieval, over which languages are averaged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// The data set.
    pub data: String,
    /// The family of settings.
    pub view: String,
    /// What is searched: `en`, `en + 240`, `own`.
    pub paragraphs: String,
    /// What was done to the vectors.
    pub vectors: String,
    /// Whether passages stood alone.
    pub passages: String,
}

/// An arm against its base on one endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    /// The arm.
    pub arm: Arm,
    /// Where both were read.
    pub layer: String,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Accuracy@1 of the base.
    pub base: Estimate,
    /// Accuracy@1 of the arm, over seeds.
    pub accuracy: Estimate,
    /// Arm less base.
    pub gain: Difference,
}

/// An arm against its base in one language, on the primary endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct LanguageGain {
    /// The arm.
    pub arm: Arm,
    /// The language of the questions.
    pub language: String,
    /// Accuracy@1 of the base.
    pub base: f64,
    /// Accuracy@1 of the arm, over seeds.
    pub accuracy: f64,
    /// Arm less base.
    pub gain: Difference,
    /// Its p by Holm's method over the arm's languages.
    pub holm: f64,
}

/// Two arms against each other on the primary endpoint, each at its own layer.
#[derive(Clone, Debug, Serialize)]
pub struct Duel {
    /// The arms.
    pub arms: [Arm; 2],
    /// Accuracy of the first less that of the second.
    pub accuracy: Difference,
    /// Gain over its base of the first less that of the second.
    pub gain: Difference,
}

/// What needs no training, on the primary endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Baseline {
    /// What it is.
    pub name: String,
    /// Where states were read; `-` where none are.
    pub layer: String,
    /// Accuracy@1.
    pub accuracy: Estimate,
}

/// What training did to the control pairs, which nothing was chosen by.
#[derive(Clone, Debug, Serialize)]
pub struct WordGain {
    /// The arm.
    pub arm: Arm,
    /// Where both were read.
    pub layer: String,
    /// Precision@1 of the base, both directions.
    pub base: f64,
    /// That of the arm, over seeds.
    pub precision: Estimate,
    /// Arm less base.
    pub gain: Difference,
    /// Mean cosine of the pairs, before and after.
    pub pairs: [f64; 2],
    /// That of words that do not translate each other.
    pub shuffled: [f64; 2],
}

/// Everything that is said.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The primary endpoint.
    pub primary: Endpoint,
    /// Accuracy@1 of a random order there.
    pub chance: f64,
    /// What needs no training there.
    pub baselines: Vec<Baseline>,
    /// Every arm on every endpoint.
    pub gains: Vec<Gain>,
    /// Every arm in every language.
    pub languages: Vec<LanguageGain>,
    /// The first arm against each of the others; against `full@final` is the question that is asked.
    pub duels: Vec<Duel>,
    /// Every arm on the control pairs.
    pub words: Vec<WordGain>,
    /// What every arm's training took.
    pub training: Vec<Training>,
    /// In a paragraph.
    pub verdict: String,
}

impl Endpoint {
    fn of(setting: &Setting) -> Endpoint {
        let own = setting.questions == setting.paragraphs;
        Endpoint {
            data: setting.data.clone(),
            view: setting.view.clone(),
            paragraphs: if own { "own".into() } else { setting.paragraphs.clone() },
            vectors: setting.vectors.clone(),
            passages: setting.passages.clone(),
        }
    }

    /// The ranks of its settings at a layer, language after language.
    fn ranks<'a>(
        &'a self,
        all: &'a BTreeMap<Setting, Ranks>,
        layer: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Ranks)> {
        let here = move |(s, _): &(&Setting, &Ranks)| s.layer == layer && Endpoint::of(s) == *self;
        all.iter().filter(here).map(|(setting, ranks)| (setting.questions.as_str(), ranks))
    }

    fn in_words(&self) -> String {
        let how = if self.vectors == "plain" { String::new() } else { format!(", {}", self.vectors) };
        let within = if self.passages == "alone" { String::new() } else { ", sentences in their paragraphs".into() };
        format!("{}: other languages to {}{how}{within}", self.data, self.paragraphs)
            .replace("other languages to own", "each language to its own")
    }
}

fn hits(ranks: &Ranks) -> Vec<f64> {
    ranks.best.iter().map(|&rank| f64::from(u8::from(rank == 1))).collect()
}

/// Hits of all languages one after the other, with the paragraph of each question.
fn all_hits(endpoint: &Endpoint, (_, ranks): &Measured, layer: &str) -> (Vec<f64>, Vec<usize>) {
    let parts = endpoint.ranks(ranks, layer).map(|(_, r)| (hits(r), r.clusters.clone()));
    let (hits, clusters): (Vec<_>, Vec<_>) = parts.unzip();
    (hits.concat(), clusters.concat())
}

impl Findings {
    /// From all runs. `data` names the first data set.
    pub fn new(arms: &[ArmRuns], data: &str, bootstrap: &Bootstrap) -> Result<Findings, StatisticsError> {
        let endpoints: BTreeSet<Endpoint> =
            arms.iter().flat_map(|a| a.base.1.keys()).filter(|s| is_treatment(s)).map(Endpoint::of).collect();
        // Runs of several versions of the program may not all have been scored on the same.
        let is_common = |e: &&Endpoint| {
            let asked = |measured: &Measured, arm: &ArmRuns| all_hits(e, measured, &arm.target).0.len();
            arms.iter().all(|arm| arm.runs.iter().all(|run| asked(run, arm) == asked(arm.base, arm)))
        };
        let endpoints: BTreeSet<Endpoint> = endpoints.iter().filter(is_common).cloned().collect();
        let is_primary = |e: &&Endpoint| {
            e.data == data
                && e.view == "english"
                && e.vectors == "plain"
                && e.passages == "alone"
                && !e.paragraphs.contains('+')
        };
        // Questions in one language alone have no other to be asked in: then the own language is what there is.
        let primary = endpoints.iter().find(is_primary).or(endpoints.first()).cloned();
        let primary = primary.ok_or(StatisticsError::TooFew { what: "endpoints", needed: 1, found: 0 })?;
        let mut gains = vec![];
        for endpoint in std::iter::once(&primary).chain(endpoints.iter().filter(|e| **e != primary)) {
            for arm in arms {
                gains.push(gain(arm, endpoint, bootstrap)?);
            }
        }
        let mut languages = vec![];
        for arm in arms {
            languages.extend(by_language(arm, &primary, bootstrap)?);
        }
        let mut findings = Findings {
            chance: chance(arms, &primary),
            baselines: baselines(arms, &primary, bootstrap)?,
            duels: duels(arms, &primary, bootstrap)?,
            words: arms.iter().filter_map(|arm| word_gain(arm).transpose()).collect::<Result<_, _>>()?,
            training: arms.iter().map(|arm| Training::of(arm, &primary)).collect(),
            primary,
            gains,
            languages,
            verdict: String::new(),
        };
        findings.verdict = findings.in_words(arms);
        Ok(findings)
    }

    fn of_arm(&self, arm: Arm) -> Option<&Gain> {
        self.gains.iter().find(|g| g.arm == arm && g.endpoint == self.primary)
    }
}

fn gain(arm: &ArmRuns, endpoint: &Endpoint, bootstrap: &Bootstrap) -> Result<Gain, StatisticsError> {
    let (base, clusters) = all_hits(endpoint, arm.base, &arm.target);
    let runs: Vec<Vec<f64>> = arm.runs.iter().map(|run| all_hits(endpoint, run, &arm.target).0).collect();
    Ok(Gain {
        arm: arm.arm,
        layer: arm.target.clone(),
        endpoint: endpoint.clone(),
        gain: Difference::between(&runs, std::slice::from_ref(&base), &clusters, bootstrap)?,
        accuracy: Difference::mean(&runs, &clusters, bootstrap)?,
        base: Difference::mean(&[base], &clusters, bootstrap)?,
    })
}

fn by_language(
    arm: &ArmRuns,
    endpoint: &Endpoint,
    bootstrap: &Bootstrap,
) -> Result<Vec<LanguageGain>, StatisticsError> {
    let mut rows = vec![];
    for (language, ranks) in endpoint.ranks(&arm.base.1, &arm.target) {
        let base = hits(ranks);
        let of_run = |run: &'_ Measured| {
            endpoint.ranks(&run.1, &arm.target).find(|(l, _)| *l == language).map(|(_, r)| hits(r)).unwrap_or_default()
        };
        let runs: Vec<Vec<f64>> = arm.runs.iter().map(of_run).collect();
        let mean = |rows: &[Vec<f64>]| rows.concat().iter().sum::<f64>() / rows.concat().len().max(1) as f64;
        let gain = Difference::between(&runs, std::slice::from_ref(&base), &ranks.clusters, bootstrap)?;
        let (accuracy, base) = (mean(&runs), mean(&[base]));
        rows.push(LanguageGain { arm: arm.arm, language: language.into(), base, accuracy, gain, holm: 1.0 });
    }
    let adjusted = holm(&rows.iter().map(|r| r.gain.p).collect::<Vec<_>>());
    rows.iter_mut().zip(adjusted).for_each(|(row, p)| row.holm = p);
    Ok(rows)
}

/// The first of `lora@2` and the arms that are there, against each other one.
fn duels(arms: &[ArmRuns], endpoint: &Endpoint, bootstrap: &Bootstrap) -> Result<Vec<Duel>, StatisticsError> {
    let Some(first) = arms.iter().find(|a| a.arm == Arm::Lora2).or(arms.first()) else { return Ok(vec![]) };
    let others = arms.iter().filter(|a| a.arm != first.arm);
    others.map(|second| duel(first, second, endpoint, bootstrap)).collect()
}

/// Hits by seed, the same less those of the base, and the paragraph of each question.
type Hits = (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<usize>);

fn duel(
    first: &ArmRuns,
    second: &ArmRuns,
    endpoint: &Endpoint,
    bootstrap: &Bootstrap,
) -> Result<Duel, StatisticsError> {
    // Of a comparison that goes on still, the seeds that both have.
    let seeds = first.runs.len().min(second.runs.len());
    let of = |arm: &ArmRuns| -> Hits {
        let (base, clusters) = all_hits(endpoint, arm.base, &arm.target);
        let runs: Vec<Vec<f64>> =
            arm.runs.iter().take(seeds).map(|run| all_hits(endpoint, run, &arm.target).0).collect();
        let less_base = |run: &Vec<f64>| run.iter().zip(&base).map(|(a, b)| a - b).collect();
        let gains = runs.iter().map(less_base).collect();
        (runs, gains, clusters)
    };
    let ((first_runs, first_gains, clusters), (second_runs, second_gains, _)) = (of(first), of(second));
    Ok(Duel {
        arms: [first.arm, second.arm],
        accuracy: Difference::between(&first_runs, &second_runs, &clusters, bootstrap)?,
        gain: Difference::between(&first_gains, &second_gains, &clusters, bootstrap)?,
    })
}

/// Whether vectors are the model's own, which training changes.
fn is_treatment(setting: &Setting) -> bool {
    ["plain", "centred", "cross-fitted"].contains(&setting.vectors.as_str())
}

fn chance(arms: &[ArmRuns], primary: &Endpoint) -> f64 {
    let Some(arm) = arms.first() else { return 0.0 };
    let all: Vec<f64> = primary.ranks(&arm.base.1, &arm.target).map(|(_, ranks)| ranks.chance()).collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

/// The embedding's output, words alone, and linear maps at the arms' layers, as far as the base was measured with them.
fn baselines(arms: &[ArmRuns], primary: &Endpoint, bootstrap: &Bootstrap) -> Result<Vec<Baseline>, StatisticsError> {
    // A base in 4 bits has the same; the first arm's stands for all.
    let Some(arm) = arms.first() else { return Ok(vec![]) };
    let layers: BTreeSet<&str> = arms.iter().map(|a| a.target.as_str()).collect();
    let maps = |name: &'static str, vectors: &'static str| layers.iter().map(move |&layer| (name, vectors, layer));
    let named = [("embedding's output", "plain", "0"), ("BM25", "bm25", "-")];
    let maps = maps("Procrustes map", "procrustes").chain(maps("ridge map", "ridge"));
    let mut found = vec![];
    for (name, vectors, layer) in named.into_iter().chain(maps) {
        let endpoint = Endpoint { vectors: vectors.into(), ..primary.clone() };
        let (hits, clusters) = all_hits(&endpoint, arm.base, layer);
        if !hits.is_empty() {
            let accuracy = Difference::mean(&[hits], &clusters, bootstrap)?;
            found.push(Baseline { name: name.into(), layer: layer.into(), accuracy });
        }
    }
    Ok(found)
}

/// None where no control pairs were measured. Intervals come from resampled pairs and seeds.
fn word_gain(arm: &ArmRuns) -> Result<Option<WordGain>, StatisticsError> {
    let (words, Some(base)) = (arm.words(), arm.base.0.control.get(&arm.target)) else { return Ok(None) };
    if words.is_empty() {
        return Ok(None);
    }
    let hits: Vec<Vec<f64>> = words.iter().map(|w| w.hits()).collect();
    let each: Vec<usize> = (0..base.ranks[0].len()).collect();
    let mean = |of: fn(&Words) -> f64| words.iter().map(|w| of(w)).sum::<f64>() / words.len() as f64;
    Ok(Some(WordGain {
        arm: arm.arm,
        layer: arm.target.clone(),
        base: base.precision_at_1(),
        gain: Difference::between(&hits, &[base.hits()], &each, &Bootstrap::default())?,
        precision: Difference::mean(&hits, &each, &Bootstrap::default())?,
        pairs: [base.pair_cosine, mean(|w| w.pair_cosine)],
        shuffled: [base.shuffled_cosine, mean(|w| w.shuffled_cosine)],
    }))
}
