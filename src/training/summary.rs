//! A run's result as tables, pictures and sentences.

use super::history::{EpochRecord, History, StepRecord};
use super::outcome::{GroupChange, Summary};
use super::plan::blocks_in_words;
use super::settings::{Method, Settings};
use crate::report::plot::{LineChart, PlotError};
use crate::report::{Figure, Report, Section, Table};
use crate::retrieval::rows::Row;
use crate::retrieval::statistics::Estimate;

/// Accuracy before and after, beside each other.
fn questions_change_table(before: &[Row], after: &[Row]) -> Table {
    let mut table = Table::new([
        "questions",
        "paragraphs",
        "layer",
        "accuracy@1 before",
        "after",
        "recall@10 before",
        "after",
        "MRR@10 before",
        "after",
    ]);
    for (b, a) in before.iter().zip(after) {
        let layer = b.layer.map(|l| l.to_string()).unwrap_or_default();
        let words = [b.questions.clone(), b.paragraphs.clone(), layer];
        let numbers = [b.accuracy_at_1, a.accuracy_at_1, b.recall_at_10, a.recall_at_10, b.mrr_at_10, a.mrr_at_10];
        table.row(words.into_iter().chain(numbers.map(|x| format!("{x:.3}"))));
    }
    table
}

fn estimate(e: &Estimate) -> String {
    format!("{:.3} [{:.3}, {:.3}]", e.value, e.low, e.high)
}

/// Word groups: cosines, margins and retrieval, before and after, with 95 % intervals.
fn words_table(changes: &[GroupChange]) -> Table {
    let mut table = Table::new(["pairs", "layer", "measure", "before", "after", "difference"]);
    for GroupChange { group, layer, pairs, change } in changes {
        let rows = [
            ("cosine of pairs", &change.cosine),
            ("margin over others", &change.margin),
            ("P@1, to target", &change.to_target.precision_at_1),
            ("P@1, to source", &change.to_source.precision_at_1),
            ("MRR, to target", &change.to_target.reciprocal_rank),
            ("MRR, to source", &change.to_source.reciprocal_rank),
        ];
        for (i, (measure, c)) in rows.into_iter().enumerate() {
            let (group, layer) =
                if i == 0 { (format!("{group} ({pairs})"), layer.to_string()) } else { Default::default() };
            table.row([group, layer, measure.into(), estimate(&c.before), estimate(&c.after), estimate(&c.difference)]);
            if i == 0 {
                let [before, after] = &change.shuffled;
                table.row([
                    "".into(),
                    "".into(),
                    "cosine of shuffled pairs".to_string(),
                    estimate(before),
                    estimate(after),
                ]);
            }
        }
    }
    table
}

/// The paired tests, of the margin and, as arXiv 2506.15415 reports it, of the cosine.
fn tests_table(changes: &[GroupChange]) -> Table {
    let mut table = Table::new(["pairs", "layer", "of", "t", "df", "p", "Cohen's dz", "improved", "P@1 by chance"]);
    for GroupChange { group, layer, pairs, change } in changes {
        for (of, c) in [("margin", &change.margin), ("cosine", &change.cosine)] {
            table.row([
                group.to_string(),
                layer.to_string(),
                of.into(),
                format!("{:.2}", c.test.t),
                format!("{}", c.test.df),
                c.test.p.to_string(),
                format!("{:.2}", c.test.dz),
                format!("{} of {pairs}", c.improved),
                format!("{:.4}", change.to_target.chance),
            ]);
        }
    }
    table
}

/// `lora@2 in blocks 0 to 1` or `full@final`.
pub fn arm(settings: &Settings) -> String {
    match settings.method {
        Method::Lora => format!("lora@{} in {}", settings.target, blocks_in_words(&settings.blocks)),
        Method::Full => format!("full@{}", settings.target),
    }
}

impl Summary {
    /// The sentence that a reader remembers.
    pub fn verdict(&self) -> String {
        let mut sentences = vec![];
        if let Some(collapse) = &self.collapse {
            sentences.push(collapse.explanation());
        }
        let target = self.settings.target;
        if let Some(c) = self.words.iter().find(|c| c.group == "control" && c.layer == target) {
            let p = &c.change.to_target.precision_at_1;
            let moved = match (p.difference.excludes_zero(), p.difference.value > 0.0) {
                (true, true) => "rises",
                (true, false) => "falls",
                (false, _) => "does not move beyond its interval",
            };
            sentences.push(format!(
                "On the {} control pairs, never trained on, word retrieval {moved}: P@1 {:.3} to {} (chance {:.3}).",
                c.pairs,
                p.before.value,
                estimate(&p.after),
                c.change.to_target.chance
            ));
        }
        sentences.join(" ")
    }

    /// The report of a run, with pictures of the words before and after.
    pub fn report(&self, history: &History, of_words: Vec<Figure>) -> Result<Report, PlotError> {
        let mut report = Report::new(format!("kiungo train: {}", arm(&self.settings)), self.verdict());
        if let Some(collapse) = self.collapse.filter(|c| c.collapsed) {
            report.warnings.push(collapse.explanation());
        }
        report.warnings.extend(self.notes.iter().cloned());
        let mut words = Section::new("Word pairs")
            .text("Intervals are 95 %, from resampled pairs. A margin is a pair's cosine less the mean cosine of its source word and the words that do not translate it: it rises only if pairs gain over others. P@1 is among the group's distinct words; a tie counts as wrong.")
            .table(words_table(&self.words))
            .table(tests_table(&self.words).caption("Paired t-tests of after less before"));
        for figure in word_figures(history)?.into_iter().chain(of_words) {
            words = words.figure(figure);
        }
        report.sections.push(words);
        if !self.questions_after.is_empty() {
            report.sections.push(
                Section::new("Questions to paragraphs")
                    .text("Each question is searched for its paragraph, by cosine; a tie counts as wrong.")
                    .table(questions_change_table(&self.questions_before, &self.questions_after)),
            );
        }
        report.sections.push(
            Section::new("Training")
                .text(format!(
                    "{} steps in {:.1} s on {}; {} parameters learned. Final hash, over all of them: {}. The same seed on the same device gives the same.",
                    self.steps, self.training_seconds, self.device, self.parameters, self.hash
                ))
                .figure(step_figure(history, "Loss", |s| s.loss.into())?)
                .figure(step_figure(history, "Learning rate", |s| s.learning_rate)?)
                .figure(step_figure(history, "Norm of the gradient", |s| s.gradient_norm.into())?),
        );
        report.sections.push(Section::new("Settings").table(settings_table(&self.settings)));
        Ok(report)
    }
}

fn step_figure(history: &History, title: &str, value: impl Fn(&StepRecord) -> f64) -> Result<Figure, PlotError> {
    let points = history.steps.iter().map(|s| (s.step as f64, value(s)));
    LineChart::new(title, "step", title.to_lowercase()).series(title.to_lowercase(), points).draw()
}

fn word_figures(history: &History) -> Result<Vec<Figure>, PlotError> {
    if history.epochs.iter().all(|e| e.dev_cosine.is_none()) {
        return Ok(vec![]);
    }
    let points = |value: fn(&EpochRecord) -> Option<f64>| {
        history.epochs.iter().filter_map(move |e| Some((e.epoch as f64, value(e)?)))
    };
    Ok(vec![
        LineChart::new("Cosine of development pairs", "epoch", "cosine")
            .series("pairs", points(|e| e.dev_cosine))
            .series("shuffled pairs", points(|e| e.dev_shuffled_cosine))
            .draw()?,
        LineChart::new("Word retrieval among development pairs", "epoch", "P@1")
            .series("P@1, mean of both directions", points(|e| e.dev_precision_at_1))
            .include_zero()
            .draw()?,
    ])
}

fn settings_table(settings: &Settings) -> Table {
    let mut table = Table::new(["setting", "value"]);
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(settings) {
        for (name, value) in fields {
            let text = match value {
                serde_json::Value::String(s) => s,
                // 0.05 in f32 is 0.05000000074505806 in f64.
                serde_json::Value::Number(n) if n.is_f64() => (n.as_f64().unwrap_or_default() as f32).to_string(),
                other => other.to_string(),
            };
            table.row([name.replace('_', " "), text]);
        }
    }
    table
}
