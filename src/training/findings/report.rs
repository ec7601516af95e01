//! The findings as a report: tables and pictures.

use super::{ArmRuns, Findings, Matrix, Training, Words};
use crate::report::plot::{HeatMap, Histogram, IntervalChart, LineChart, PlotError};
use crate::report::{Report, Section, Table};
use crate::retrieval::statistics::StatisticsError;
use crate::training::arms::Arm;
use std::collections::BTreeSet;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A chart could not be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The figures allow no statement.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

type Made = Result<Section, PlotError>;

impl Findings {
    /// The report, with the runs' own figures.
    pub fn report(&self, arms: &[ArmRuns], notes: &[String]) -> Result<Report, ReportError> {
        let mut report = Report::new("kiungo compare", self.verdict.clone());
        report.warnings.extend(notes.iter().cloned());
        report.sections = vec![
            self.primary_section(arms)?,
            self.language_section(arms)?,
            matrix_section(arms)?,
            self.endpoint_section(),
            self.words_section(arms)?,
            base_section(arms)?,
            training_section(&self.training, arms)?,
        ];
        report.sections.retain(|s| !(s.tables.is_empty() && s.figures.is_empty()));
        Ok(report)
    }

    fn primary_section(&self, arms: &[ArmRuns]) -> Made {
        let mut table = Table::new(["arm", "layer", "base", "accuracy@1", "gain", "p", "detectable", "seeds"])
            .caption("Arms, and what needs no training");
        let mut whys = Table::new(["arm", "what it tells"]);
        let title = format!("Accuracy@1, {}", self.primary.in_words());
        let mut chart = IntervalChart::new(title, "accuracy@1", ["base at the same layer", "after training"]);
        for g in arms.iter().filter_map(|a| self.of_arm(a.arm)) {
            table.row([
                g.arm.to_string(),
                g.layer.clone(),
                format!("{:.3}", g.base),
                format!("{:.3}", g.accuracy),
                format!("{:+.3}", g.gain.estimate),
                format!("{:.4}", g.gain.p),
                format!("{:.3}", g.gain.detectable),
                g.gain.seeds.to_string(),
            ]);
            whys.row([g.arm.to_string(), g.arm.why().into()]);
            chart = chart.row(g.arm.to_string(), [Some(g.base), Some(g.accuracy)]);
        }
        for b in &self.baselines {
            table.row([b.name.clone(), b.layer.clone(), "-".into(), format!("{:.3}", b.accuracy)]);
        }
        let mut duels =
            Table::new(["arms", "difference", "p", "detectable", "difference of gains", "p"]).caption("Arm less arm");
        for d in &self.duels {
            duels.row([
                format!("{} less {}", d.arms[0], d.arms[1]),
                format!("{:+.3}", d.accuracy.estimate),
                format!("{:.4}", d.accuracy.p),
                format!("{:.3}", d.accuracy.detectable),
                format!("{:+.3}", d.gain.estimate),
                format!("{:.4}", d.gain.p),
            ]);
        }
        let text = "The primary endpoint, fixed beforehand: all questions, at each arm's own target layer, not centred, against the base model at that layer, mean over languages. Intervals are 95 %, from resampled paragraphs and seeds; p is of a sign-flip permutation over paragraphs; detectable is the smallest true difference that such data would find four times in five. Only lora@2 less full@final was asked beforehand: the other differences say why, and their p are not corrected for their number.";
        let chart = chart.level("chance", self.chance).draw()?;
        let section = Section::new("Retrieval").text(text).table(table).figure(chart);
        Ok(if duels.rows.is_empty() { section } else { section.table(duels) }.table(whys))
    }

    fn language_section(&self, arms: &[ArmRuns]) -> Made {
        let mut table = Table::new(["language", "arm", "base", "accuracy@1", "gain", "p", "p by Holm"])
            .caption("Every arm in every language");
        let codes: BTreeSet<&str> = self.languages.iter().map(|l| l.language.as_str()).collect();
        let of = |code: &str, arm: Arm| self.languages.iter().find(|l| l.language == code && l.arm == arm);
        for code in &codes {
            for l in arms.iter().filter_map(|a| of(code, a.arm)) {
                table.row([
                    code.to_string(),
                    l.arm.to_string(),
                    format!("{:.3}", l.base),
                    format!("{:.3}", l.accuracy),
                    format!("{:+.3}", l.gain.estimate),
                    format!("{:.4}", l.gain.p),
                    format!("{:.4}", l.holm),
                ]);
            }
        }
        let map = |title: &str, value: &dyn Fn(Arm, &str) -> Option<f64>| {
            arms.iter().fold(HeatMap::new(title, codes.iter().copied()), |map, a| {
                map.row(a.arm.to_string(), codes.iter().map(|code| value(a.arm, code)))
            })
        };
        let after = map("Accuracy@1 by language of the questions", &|arm, code| Some(of(code, arm)?.accuracy));
        let gain =
            map("Gain over the base, by language", &|arm, code| Some(of(code, arm)?.gain.estimate.value)).signed();
        let text =
            "The same endpoint in each language. Holm's method corrects an arm's p for looking at all its languages.";
        Ok(Section::new("By language").text(text).table(table).figure(after.draw()?).figure(gain.draw()?))
    }

    fn endpoint_section(&self) -> Section {
        let mut table = Table::new(["retrieval", "arm", "layer", "base", "accuracy@1", "gain", "p"])
            .caption("Every arm on every other endpoint");
        for g in self.gains.iter().filter(|g| g.endpoint != self.primary) {
            table.row([
                g.endpoint.in_words(),
                g.arm.to_string(),
                g.layer.clone(),
                format!("{:.3}", g.base.value),
                format!("{:.3}", g.accuracy),
                format!("{:+.3}", g.gain.estimate),
                format!("{:.4}", g.gain.p),
            ]);
        }
        let text = "Secondary. Centred vectors are less the mean of their language, from all evaluated texts, or cross-fitted from other articles; they are compared with the base's centred ones alone. Each language over its own passages shows what was forgotten.";
        Section::new("Other endpoints").text(text).table(table)
    }

    /// The control pairs, which nothing was chosen by.
    fn words_section(&self, arms: &[ArmRuns]) -> Made {
        let mut table = Table::new([
            "arm",
            "layer",
            "P@1 base",
            "P@1",
            "gain",
            "cosine base",
            "cosine",
            "shuffled base",
            "shuffled",
        ]);
        for w in &self.words {
            let cosines = [w.pairs[0], w.pairs[1], w.shuffled[0], w.shuffled[1]].map(|c| format!("{c:.3}"));
            let head = [w.arm.to_string(), w.layer.clone(), format!("{:.3}", w.base)];
            let gain = [format!("{:.3}", w.precision), format!("{:+.3}", w.gain.estimate)];
            table.row(head.into_iter().chain(gain).chain(cosines));
        }
        let text = "Control pairs, never trained on and never chosen by, both directions, among the group's own words. Intervals from resampled pairs and seeds. The cosine of pairs alone says little: that of shuffled pairs stands beside it, and where both rise alike, words have moved together, not translations.";
        let mut section = Section::new("Words").text(text);
        if !self.words.is_empty() {
            section = section.table(table);
        }
        for arm in arms {
            let words = arm.words();
            let Some(base) = arm.base.0.control.get(&arm.target).filter(|b| !b.cosines.is_empty()) else { continue };
            if words.is_empty() || words.iter().any(|w| w.cosines.is_empty()) {
                continue;
            }
            let values = |of: fn(&Words) -> &[f32]| -> Vec<f64> {
                words.iter().flat_map(|w| of(w)).map(|&c| c.into()).collect()
            };
            let base_values = |of: fn(&Words) -> &[f32]| of(base).iter().map(|&c| f64::from(c));
            let histogram = Histogram::new(format!("Control pairs under {}, layer {}", arm.arm, arm.target), "cosine")
                .series("pairs before", base_values(|w| &w.cosines))
                .series("shuffled before", base_values(|w| &w.others))
                .series("pairs after", values(|w| &w.cosines))
                .series("shuffled after", values(|w| &w.others));
            section = section.figure(histogram.draw()?);
        }
        Ok(section)
    }
}

/// Every language's questions over every language's passages: the base, and what each arm changes.
fn matrix_section(arms: &[ArmRuns]) -> Made {
    let mut section = Section::new("Languages among each other").text(
        "Accuracy@1 of questions in the row's language over passages in the column's, at the arm's own layer; changes are means over seeds. What an arm does to languages that it was not trained on is off the trained language's row and column.",
    );
    let mut shown: BTreeSet<(String, &str)> = BTreeSet::new();
    for arm in arms {
        let Some(base) = arm.base.0.matrices.get(&arm.target).filter(|m| m.languages[0].len() > 1) else { continue };
        if shown.insert((format!("{:?}", base.accuracy), &arm.target)) {
            let title = format!("The base at layer {}: questions by passages", arm.target);
            section = section.figure(matrix_map(&title, base, |q, p| base.get(q, p)).draw()?);
        }
        let after: Vec<&Matrix> = arm.runs.iter().filter_map(|(run, _)| run.matrices.get(&arm.target)).collect();
        if after.is_empty() {
            continue;
        }
        let change = |q: &str, p: &str| {
            let mean = after.iter().filter_map(|m| m.get(q, p)).sum::<f64>() / after.len() as f64;
            Some(mean - base.get(q, p)?)
        };
        let title = format!("What {} changes at layer {}", arm.arm, arm.target);
        section = section.figure(matrix_map(&title, base, change).signed().draw()?);
    }
    Ok(section)
}

fn matrix_map(title: &str, like: &Matrix, value: impl Fn(&str, &str) -> Option<f64>) -> HeatMap {
    let [questions, passages] = &like.languages;
    let map = HeatMap::new(title, passages.iter().map(String::as_str));
    questions.iter().fold(map, |map, q| map.row(q, passages.iter().map(|p| value(q, p))))
}

/// The untrained model by layer.
fn base_section(arms: &[ArmRuns]) -> Made {
    let section = Section::new("The base by layer");
    let Some(base) = arms.first().map(|arm| &arm.base.0) else { return Ok(section) };
    // The state behind the final norm has no place on the axis.
    let number = |layer: &str| layer.parse::<f64>().ok();
    let mut accuracy = LineChart::new("Accuracy@1 on the primary endpoint, untrained", "blocks run", "accuracy@1");
    for (vectors, layers) in &base.by_layer {
        accuracy =
            accuracy.series(vectors, layers.iter().filter_map(|(layer, accuracy)| Some((number(layer)?, *accuracy))));
    }
    let words = |of: fn(&Words) -> f64| {
        let mut points: Vec<(f64, f64)> =
            base.control.iter().filter_map(|(layer, words)| Some((number(layer)?, of(words)))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let cosines = LineChart::new("Cosine of control pairs, untrained", "blocks run", "cosine")
        .series("pairs", words(|w| w.pair_cosine))
        .series("shuffled pairs", words(|w| w.shuffled_cosine));
    let precision = LineChart::new("Word retrieval, untrained", "blocks run", "P@1")
        .series("control pairs", words(Words::precision_at_1))
        .include_zero();
    let text = "On the test questions: the best layer of this picture is an oracle, which nothing here was chosen by.";
    let figures = [accuracy.include_zero().draw()?, cosines.draw()?, precision.draw()?];
    Ok(figures.into_iter().fold(section.text(text), Section::figure))
}

fn training_section(trainings: &[Training], arms: &[ArmRuns]) -> Made {
    let mut table = Table::new([
        "arm",
        "parameters",
        "steps",
        "learning rate",
        "loss",
        "seconds",
        "memory planned",
        "held at most",
    ]);
    let mut rates = Table::new(["arm", "learning rate (MRR of the development pairs)"]).caption("Learning rates tried");
    let mut perplexities = Table::new(["arm", "before", "after"]).caption("Perplexity of the text");
    let gigabytes = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
    let word = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    for (t, arm) in trainings.iter().zip(arms) {
        let Some((first, _)) = arm.runs.first() else { continue };
        let name = t.arm.to_string();
        table.row([
            name.clone(),
            t.parameters.to_string(),
            first.steps.to_string(),
            t.learning_rate.map_or("-".into(), |rate| format!("{rate:e}")),
            word(t.loss(), 3),
            word(Some(t.seconds), 1),
            gigabytes(first.memory),
            t.peak.map_or("-".into(), gigabytes),
        ]);
        if !t.rates.is_empty() {
            let tried: Vec<String> = t.rates.iter().map(|(rate, mrr)| format!("{rate:e} ({mrr:.3})")).collect();
            rates.row([name.clone(), tried.join(", ")]);
        }
        if let Some([before, after]) = t.perplexity {
            perplexities.row([name, format!("{before:.2}"), format!("{after:.2}")]);
        }
    }
    let text = "The learning rate was chosen on the development pairs with the first seed, from as many for each arm. Seconds are of training alone; memory is that of training, weights included. Losses, seconds and perplexities are means over seeds.";
    let tables = [table, rates, perplexities].into_iter().filter(|table| !table.rows.is_empty());
    let section = tables.fold(Section::new("Training").text(text), Section::table);
    let mut losses = LineChart::new("Loss, first seed", "step", "loss");
    let mut any = false;
    for arm in arms {
        let Some((run, _)) = arm.runs.first().filter(|(run, _)| !run.losses.is_empty()) else { continue };
        any = true;
        losses = losses.series(arm.arm.to_string(), smooth(&run.losses));
    }
    Ok(if any { section.figure(losses.include_zero().draw()?) } else { section })
}

/// Means over stretches, so that several arms can be told apart in one picture.
fn smooth(losses: &[f32]) -> Vec<(f64, f64)> {
    const POINTS: usize = 60;
    let length = losses.len().div_ceil(POINTS).max(1);
    let mean = |(i, part): (usize, &[f32])| {
        let sum: f64 = part.iter().map(|&l| f64::from(l)).sum();
        ((i * length) as f64 + (part.len() as f64 + 1.0) / 2.0, sum / part.len() as f64)
    };
    losses.chunks(length).enumerate().map(mean).collect()
}
