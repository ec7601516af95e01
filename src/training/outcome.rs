//! What a run found: word groups and question sets, before and after.

use super::batch::Group;
use super::evaluate::{EvaluateError, Probe};
use super::settings::Settings;
use crate::formats::pairs::Pair;
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::model::Model;
use crate::report::Figure;
use crate::report::plot::{Histogram, PlotError};
use crate::retrieval::embed::{EmbedError, Reading};
use crate::retrieval::questions::Questions;
use crate::retrieval::rows::{self, Row};
use crate::retrieval::scores::ScoreError;
use crate::retrieval::statistics::{Bootstrap, StatisticsError};
use crate::retrieval::views::{Treatment, Views, judge, views};
use crate::retrieval::words::{Alignment, AlignmentChange, Collapse};
use serde::Serialize;
use std::collections::HashMap;

/// Everything measured at one moment: before training, or after.
pub struct Measured {
    /// For each group of pairs, its alignment at each reported layer.
    pub words: Vec<Vec<Alignment>>,
    /// Question-to-paragraph retrieval at each reported layer.
    pub questions: Vec<Row>,
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A word group could not be evaluated.
    #[error("{group} pairs: {error}")]
    Words {
        /// The group's name.
        group: &'static str,
        /// Why.
        error: EvaluateError,
    },
    /// A question set could not be embedded.
    #[error("{data}: {error}")]
    Embed {
        /// The data set.
        data: String,
        /// Why.
        error: EmbedError,
    },
    /// The embeddings could not be compared.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The scores allow no statement.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// What is measured before and after.
pub struct Gauge<'a> {
    /// Groups by name: train, dev, control.
    pub groups: Vec<(&'static str, Probe<'a>)>,
    /// Question sets.
    pub questions: &'a [Questions],
    /// Where states are read.
    pub layers: Vec<Layer>,
    /// The run's settings.
    pub settings: &'a Settings,
}

impl<'a> Gauge<'a> {
    /// Over all groups that have pairs.
    pub fn new(
        groups: &'a [(&'static str, Group)],
        questions: &'a [Questions],
        layers: Vec<Layer>,
        settings: &'a Settings,
    ) -> Result<Gauge<'a>, MeasureError> {
        let all: Vec<Pair> = groups.iter().flat_map(|(_, g)| g.pairs.iter().cloned()).collect();
        let probe = |(name, group): &'a (&'static str, Group)| {
            let probe = Probe::new(group, &all, settings.pooling);
            probe.map(|p| (*name, p)).map_err(|error| MeasureError::Words { group: name, error })
        };
        let groups = groups.iter().filter(|(_, g)| !g.is_empty()).map(probe).collect::<Result<_, _>>()?;
        Ok(Gauge { groups, questions, layers, settings })
    }

    /// Texts of the question sets, for a progress bar.
    pub fn texts(&self) -> usize {
        self.questions.iter().map(Questions::texts).sum()
    }

    /// Measures a model in its present state.
    pub fn measure(
        &self,
        model: &Model,
        adapters: Option<&Adapters>,
        progress: impl Fn(usize),
    ) -> Result<Measured, MeasureError> {
        let words = self.groups.iter().map(|(group, probe)| {
            probe.measure(model, adapters, &self.layers).map_err(|error| MeasureError::Words { group, error })
        });
        Ok(Measured {
            words: words.collect::<Result<_, _>>()?,
            questions: self.score_questions(model, adapters, progress)?,
        })
    }

    fn score_questions(
        &self,
        model: &Model,
        adapters: Option<&Adapters>,
        progress: impl Fn(usize),
    ) -> Result<Vec<Row>, MeasureError> {
        let readings: Vec<Reading> =
            self.layers.iter().map(|&layer| Reading { layer, pooling: self.settings.pooling }).collect();
        let mut all = vec![];
        for set in self.questions {
            let collection = &set.collection;
            let views: Vec<_> = [Views::English, Views::Own].iter().flat_map(|&f| views(collection, f)).collect();
            let vectors = set
                .embed(model, adapters, &readings, &progress)
                .map_err(|error| MeasureError::Embed { data: collection.name.clone(), error })?;
            let judged = judge(&model.device, collection, &vectors, &views, &[Treatment::Plain], &HashMap::new())?;
            all.extend(rows::rows(
                collection,
                &judged,
                &Bootstrap { seed: self.settings.seed, ..Bootstrap::default() },
            )?);
        }
        Ok(all)
    }

    /// Puts two measurements beside each other.
    pub fn compare(&self, before: &Measured, after: &Measured) -> Result<Vec<GroupChange>, MeasureError> {
        let bootstrap = Bootstrap { seed: self.settings.seed, ..Bootstrap::default() };
        let mut changes = vec![];
        for (((group, _), before), after) in self.groups.iter().zip(&before.words).zip(&after.words) {
            for ((layer, before), after) in self.layers.iter().zip(before).zip(after) {
                let change = Alignment::change(before, after, &bootstrap)
                    .map_err(|e| MeasureError::Words { group, error: e.into() })?;
                changes.push(GroupChange { group, layer: *layer, pairs: before.cosines.len(), change });
            }
        }
        Ok(changes)
    }
}

impl Gauge<'_> {
    /// Cosines before and after at the target layer, of the pairs and of words that do not translate each other.
    pub fn histograms(&self, before: &Measured, after: &Measured) -> Result<Vec<Figure>, PlotError> {
        let Some(place) = self.layers.iter().position(|l| *l == self.settings.target) else { return Ok(vec![]) };
        let others = |a: &Alignment| a.cosines.iter().zip(&a.margins).map(|(c, m)| c - m).collect::<Vec<_>>();
        let figure = |group: &str, before: &Alignment, after: &Alignment| {
            Histogram::new(format!("Cosines of {group} pairs, layer {}", self.settings.target), "cosine")
                .series("pairs before", before.cosines.iter().copied())
                .series("shuffled before", others(before))
                .series("pairs after", after.cosines.iter().copied())
                .series("shuffled after", others(after))
                .draw()
        };
        let groups = self.groups.iter().zip(&before.words).zip(&after.words);
        let shown = groups.filter(|(((group, _), _), _)| *group != "dev");
        shown.map(|(((group, _), before), after)| figure(group, &before[place], &after[place])).collect()
    }
}

/// What training did to one group at one layer.
#[derive(Clone, Debug, Serialize)]
pub struct GroupChange {
    /// train, dev or control.
    pub group: &'static str,
    /// Where the states were read.
    pub layer: Layer,
    /// Pairs in the group.
    pub pairs: usize,
    /// The change.
    pub change: AlignmentChange,
}

/// A whole run's result: `summary.json` in its folder.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// This program's version.
    pub version: &'static str,
    /// The device, in words.
    pub device: String,
    /// The settings, resolved.
    pub settings: Settings,
    /// Parameters that learned.
    pub parameters: usize,
    /// Steps taken.
    pub steps: usize,
    /// Mean loss of the last epoch.
    pub final_loss: Option<f32>,
    /// SHA-256 over all that learned: runs of one seed on one device end in the same.
    pub hash: String,
    /// Wall time of training alone, seconds.
    pub training_seconds: f64,
    /// The verdict on collapse, where there were development pairs.
    pub collapse: Option<Collapse>,
    /// Word groups.
    pub words: Vec<GroupChange>,
    /// Question sets, before.
    pub questions_before: Vec<Row>,
    /// Question sets, after.
    pub questions_after: Vec<Row>,
    /// What the program chose or dropped, in words.
    pub notes: Vec<String>,
}
