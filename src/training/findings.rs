//! What a comparison of arms found: tables, intervals, a verdict.
//!
//! The primary endpoint is fixed beforehand: the share of questions in other languages whose English passage comes first,
//! over all questions of the first data set, at the arm's own target layer, not centred, against the base model at that
//! same layer.

use super::arms::Arm;
use crate::report::plot::{IntervalChart, LineChart, PlotError};
use crate::report::{Report, Section, Table};
use crate::retrieval::comparison::{Difference, holm};
use crate::retrieval::ranks::{Ranks, Setting};
use crate::retrieval::statistics::{Bootstrap, Estimate, StatisticsError};
use crate::retrieval::words::Alignment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a group's words lie, in little.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Words {
    /// Mean cosine of the pairs.
    pub pair_cosine: f64,
    /// Mean cosine of words that do not translate each other.
    pub shuffled_cosine: f64,
    /// Rank of the best translation of each source word, then of each target word.
    pub ranks: [Vec<usize>; 2],
}

impl Words {
    /// Of a measured group.
    pub fn of(alignment: &Alignment) -> Words {
        let ranks = [&alignment.to_target, &alignment.to_source].map(|s| s.rankings.iter().map(|r| r.rank()).collect());
        Words { pair_cosine: alignment.pair_cosine, shuffled_cosine: alignment.shuffled_cosine, ranks }
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
    fn hits(&self) -> Vec<f64> {
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

/// Everything that is said.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The primary endpoint.
    pub primary: Endpoint,
    /// Every arm on every endpoint.
    pub gains: Vec<Gain>,
    /// Every arm in every language.
    pub languages: Vec<LanguageGain>,
    /// The question that is asked, where both of its arms ran.
    pub duel: Option<Duel>,
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
            arms.iter().flat_map(|a| a.base.1.keys()).filter(|s| s.vectors != "bm25").map(Endpoint::of).collect();
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
        let mut findings =
            Findings { duel: duel(arms, &primary, bootstrap)?, primary, gains, languages, verdict: String::new() };
        findings.verdict = findings.in_words(arms);
        Ok(findings)
    }

    fn of_arm(&self, arm: Arm) -> Option<&Gain> {
        self.gains.iter().find(|g| g.arm == arm && g.endpoint == self.primary)
    }

    fn in_words(&self, arms: &[ArmRuns]) -> String {
        let mut sentences = vec![];
        let shown = |g: &Gain| {
            format!(
                "{} finds {:.3} of them (base at the same layer {:.3}; gain {:+.3}, p {:.4})",
                g.arm, g.accuracy, g.base.value, g.gain.estimate, g.gain.p
            )
        };
        if let Some(Duel { arms: [first, second], accuracy, gain }) = &self.duel {
            let both: Vec<String> = [first, second].iter().filter_map(|&&arm| self.of_arm(arm)).map(shown).collect();
            sentences.push(format!(
                "Questions in other languages over {} passages of {}, accuracy@1: {}.",
                self.primary.paragraphs,
                self.primary.data,
                both.join("; ")
            ));
            sentences.push(format!(
                "{first} less {second}: {:+.3}, p {:.4}: {}.",
                accuracy.estimate,
                accuracy.p,
                sign_in_words(accuracy, &format!("{first} retrieves better"), &format!("{second} retrieves better"))
            ));
            sentences.push(format!(
                "Of their gains over the base, each at its own layer: {:+.3}, p {:.4}: {}.",
                gain.estimate,
                gain.p,
                sign_in_words(gain, &format!("{first} gains more"), &format!("{second} gains more"))
            ));
            sentences.push(format!("A true difference below {:.3} would be found less often than four times in five with these questions and seeds.", accuracy.detectable));
        } else {
            let all: Vec<String> = arms.iter().filter_map(|a| self.of_arm(a.arm)).map(shown).collect();
            sentences.push(format!(
                "Questions over {} passages of {}, accuracy@1: {}.",
                self.primary.paragraphs,
                self.primary.data,
                all.join("; ")
            ));
        }
        let collapsed: Vec<String> =
            arms.iter().filter(|a| a.runs.iter().any(|(run, _)| run.collapsed)).map(|a| a.arm.to_string()).collect();
        if !collapsed.is_empty() {
            sentences.push(format!("Collapsed, with every embedding moving to one point: {}.", collapsed.join(", ")));
        }
        sentences.join(" ")
    }
}

/// What a difference shows, if anything: its interval and its p must agree.
fn sign_in_words(difference: &Difference, above: &str, below: &str) -> String {
    let shown = difference.estimate.excludes_zero() && difference.p < 0.05;
    match (shown, difference.estimate.value > 0.0) {
        (false, _) => "no difference shown".into(),
        (true, true) => above.into(),
        (true, false) => below.into(),
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

/// `lora@2` against `full@final`.
fn duel(arms: &[ArmRuns], endpoint: &Endpoint, bootstrap: &Bootstrap) -> Result<Option<Duel>, StatisticsError> {
    let names = [Arm::Lora2, Arm::FullFinal];
    let [Some(first), Some(second)] = names.map(|name| arms.iter().find(|a| a.arm == name)) else { return Ok(None) };
    let of = |arm: &ArmRuns| -> (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<usize>) {
        let (base, clusters) = all_hits(endpoint, arm.base, &arm.target);
        let runs: Vec<Vec<f64>> = arm.runs.iter().map(|run| all_hits(endpoint, run, &arm.target).0).collect();
        let less_base = |run: &Vec<f64>| run.iter().zip(&base).map(|(a, b)| a - b).collect();
        let gains = runs.iter().map(less_base).collect();
        (runs, gains, clusters)
    };
    let ((first_runs, first_gains, clusters), (second_runs, second_gains, _)) = (of(first), of(second));
    Ok(Some(Duel {
        arms: names,
        accuracy: Difference::between(&first_runs, &second_runs, &clusters, bootstrap)?,
        gain: Difference::between(&first_gains, &second_gains, &clusters, bootstrap)?,
    }))
}

impl Findings {
    /// The report, with the runs' own figures.
    pub fn report(&self, arms: &[ArmRuns], notes: &[String]) -> Result<Report, ReportError> {
        let mut report = Report::new("kiungo compare", self.verdict.clone());
        report.warnings.extend(notes.iter().cloned());
        report.sections.push(self.primary_section(arms)?);
        report.sections.push(self.language_section(arms)?);
        report.sections.push(self.endpoint_section());
        report.sections.push(alignment_section(arms)?);
        report.sections.push(self.base_section(arms)?);
        report.sections.push(cost_section(arms));
        Ok(report)
    }

    fn primary_section(&self, arms: &[ArmRuns]) -> Result<Section, ReportError> {
        let mut table = Table::new(["arm", "layer", "base", "accuracy@1", "gain", "p", "detectable", "seeds"]);
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
        let text = "The primary endpoint, fixed beforehand: all questions, at each arm's own target layer, not centred, against the base model at that layer, mean over languages. Intervals are 95 %, from resampled paragraphs and seeds; p is of a sign-flip permutation over paragraphs; detectable is the smallest true difference that such data would find four times in five.";
        Ok(Section::new("Retrieval").text(text).table(table).table(whys).figure(chart.draw()?))
    }

    fn language_section(&self, arms: &[ArmRuns]) -> Result<Section, ReportError> {
        let names: Vec<String> = arms.iter().map(|a| a.arm.to_string()).collect();
        let mut table = Table::new(["language", "arm", "base", "accuracy@1", "gain", "p", "p by Holm"]);
        let codes: BTreeSet<&str> = self.languages.iter().map(|l| l.language.as_str()).collect();
        let mut chart = IntervalChart::new("Gain over the base by language", "gain in accuracy@1", names);
        for code in codes {
            let of = |arm: Arm| self.languages.iter().find(|l| l.language == code && l.arm == arm);
            for l in arms.iter().filter_map(|a| of(a.arm)) {
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
            chart = chart.row(code, arms.iter().map(|a| of(a.arm).map(|l| l.gain.estimate)));
        }
        let text =
            "The same endpoint in each language. Holm's method corrects an arm's p for looking at all its languages.";
        Ok(Section::new("By language").text(text).table(table).figure(chart.level("no gain", 0.0).draw()?))
    }

    fn endpoint_section(&self) -> Section {
        let mut table = Table::new(["retrieval", "arm", "layer", "base", "accuracy@1", "gain", "p"]);
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

    /// The untrained model by layer.
    fn base_section(&self, arms: &[ArmRuns]) -> Result<Section, ReportError> {
        let section = Section::new("The base by layer");
        let Some(first) = arms.first() else { return Ok(section) };
        let mut chart = LineChart::new("The base model, untrained, by layer", "blocks run", "accuracy@1");
        for (vectors, layers) in &first.base.0.by_layer {
            // The state behind the final norm has no place on the axis.
            let points = layers.iter().filter_map(|(layer, accuracy)| Some((layer.parse().ok()?, *accuracy)));
            chart = chart.series(vectors, points);
        }
        let text =
            "On the test questions: the best layer of this picture is an oracle, which nothing here was chosen by.";
        Ok(section.text(text).figure(chart.include_zero().draw()?))
    }
}

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

/// The control pairs, which nothing was chosen by.
fn alignment_section(arms: &[ArmRuns]) -> Result<Section, ReportError> {
    let mut table =
        Table::new(["arm", "layer", "P@1 base", "P@1", "gain", "cosine base", "cosine", "shuffled base", "shuffled"]);
    for arm in arms {
        let Some(base) = arm.base.0.control.get(&arm.target) else { continue };
        let words: Vec<&Words> = arm.runs.iter().filter_map(|(run, _)| run.control.get(&arm.target)).collect();
        let hits: Vec<Vec<f64>> = words.iter().map(|w| w.hits()).collect();
        let each: Vec<usize> = (0..base.ranks[0].len()).collect();
        let gain = Difference::between(&hits, &[base.hits()], &each, &Bootstrap::default())?;
        let accuracy = Difference::mean(&hits, &each, &Bootstrap::default())?;
        let mean = |of: fn(&Words) -> f64| words.iter().map(|w| of(w)).sum::<f64>() / words.len() as f64;
        table.row([
            arm.arm.to_string(),
            arm.target.clone(),
            format!("{:.3}", base.precision_at_1()),
            format!("{accuracy:.3}"),
            format!("{:+.3}", gain.estimate),
            format!("{:.3}", base.pair_cosine),
            format!("{:.3}", mean(|w| w.pair_cosine)),
            format!("{:.3}", base.shuffled_cosine),
            format!("{:.3}", mean(|w| w.shuffled_cosine)),
        ]);
    }
    let text = "Pairs never trained on and never chosen by, both directions, among the group's own words. Intervals from resampled pairs and seeds. The cosine of pairs alone says little: that of shuffled pairs stands beside it.";
    Ok(Section::new("Words").text(text).table(table))
}

fn cost_section(arms: &[ArmRuns]) -> Section {
    let mut table = Table::new([
        "arm",
        "parameters",
        "steps",
        "seconds",
        "memory planned",
        "loss",
        "learning rate",
        "rates tried (dev MRR)",
        "perplexity base",
        "perplexity",
    ]);
    for arm in arms {
        let runs: Vec<&Run> = arm.runs.iter().map(|(run, _)| run).collect();
        let Some(first) = runs.first() else { continue };
        let mean = |of: &dyn Fn(&Run) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(|r| of(r)).collect();
            values.map(|v| v.iter().sum::<f64>() / v.len() as f64)
        };
        let word = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        let rates: Vec<String> = arm.rates.iter().map(|(rate, mrr)| format!("{rate:e} ({mrr:.3})")).collect();
        table.row([
            arm.arm.to_string(),
            first.parameters.to_string(),
            first.steps.to_string(),
            word(mean(&|r| Some(r.seconds)), 1),
            format!("{:.2} GB", first.memory as f64 / 1e9),
            word(mean(&|r| r.final_loss.map(f64::from)), 3),
            first.learning_rate.map_or("-".into(), |rate| format!("{rate:e}")),
            rates.join(", "),
            word(arm.base.0.perplexity, 2),
            word(mean(&|r| r.perplexity), 2),
        ]);
    }
    Section::new("Training")
        .text("The learning rate was chosen on the development pairs with the first seed, from as many for each arm.")
        .table(table)
}

/// The gains as comma-separated text.
pub fn csv(gains: &[Gain]) -> String {
    let mut text = "data,view,paragraphs,vectors,passages,arm,layer,base,base_low,base_high,accuracy,low,high,gain,gain_low,gain_high,p,detectable,seeds\n".to_string();
    for g in gains {
        let Endpoint { data, view, paragraphs, vectors, passages } = &g.endpoint;
        let numbers =
            [g.base, g.accuracy, g.gain.estimate].map(|e| format!("{},{},{}", e.value, e.low, e.high)).join(",");
        let Difference { p, detectable, seeds, .. } = g.gain;
        text += &format!(
            "{data},{view},{paragraphs},{vectors},{passages},{},{},{numbers},{p},{detectable},{seeds}\n",
            g.arm, g.layer
        );
    }
    text
}
