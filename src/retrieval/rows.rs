//! Settings in numbers, one line each.

use super::scores::Metric;
use super::statistics::{Bootstrap, Estimate, StatisticsError};
use super::views::{Judged, Treatment, Views};
use crate::formats::collection::Collection;
use crate::llama::Layer;
use crate::ops::pooling::Pooling;
use crate::report::plot::{HeatMap, LineChart, PlotError};
use crate::report::{Figure, Table};
use crate::words::as_word;
use serde::Serialize;
use std::collections::BTreeMap;

/// A setting, or the mean of several.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The data set.
    pub data: String,
    /// The family of settings it belongs to.
    pub view: Views,
    /// Language of the questions.
    pub questions: String,
    /// Language of the passages, and what else they are.
    pub paragraphs: String,
    /// Where the states were read; none for BM25.
    pub layer: Option<Layer>,
    /// How they were pooled; none for BM25.
    #[serde(serialize_with = "word")]
    pub pooling: Option<Pooling>,
    /// What was done to the vectors.
    #[serde(with = "as_word")]
    pub treatment: Treatment,
    /// Sentences were pooled inside their paragraphs.
    pub within: bool,
    /// Questions asked.
    pub count: usize,
    /// Candidates, of a single setting.
    pub candidates: usize,
    /// Accuracy@1.
    pub accuracy_at_1: f64,
    /// Its 95 % interval, from resampled paragraphs; none with fewer than two.
    pub interval: Option<[f64; 2]>,
    /// Recall@5.
    pub recall_at_5: f64,
    /// Recall@10.
    pub recall_at_10: f64,
    /// MRR@10.
    pub mrr_at_10: f64,
    /// nDCG@10.
    pub ndcg_at_10: f64,
    /// Mean average precision.
    pub map: f64,
    /// Accuracy@1 of a random order.
    pub chance: f64,
    /// Pooled over languages: share of the questions whose first candidate is in their own language.
    pub same_language: Option<f64>,
    /// Pooled over languages: ranks between the best and the worst translation of the answer.
    pub rank_distance: Option<f64>,
}

fn word<S: serde::Serializer>(word: &Option<Pooling>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_some(&word.map(|w| w.to_string()))
}

/// A line for each setting, and after each family its mean over languages; of the matrix, over different languages.
pub fn rows(collection: &Collection, judged: &[Judged], bootstrap: &Bootstrap) -> Result<Vec<Row>, StatisticsError> {
    let mut rows = vec![];
    let mut rest = judged;
    while let Some(first) = rest.first() {
        let n = rest.iter().take_while(|j| same_family(first, j)).count();
        let (family, after) = rest.split_at(n);
        rest = after;
        for j in family {
            rows.push(row(collection, &[j], bootstrap)?);
        }
        for members in means(family) {
            let mut mean = row(collection, &members, bootstrap)?;
            mean.questions = format!("mean of {}", members.len());
            mean.paragraphs = match first.view.family {
                Views::English => members[0].view.passages.clone(),
                Views::Matrix => "another".into(),
                _ => "own".into(),
            };
            rows.push(mean);
        }
    }
    Ok(rows)
}

fn same_family(a: &Judged, b: &Judged) -> bool {
    let key = |j: &Judged| (j.view.family, j.reading, j.treatment, j.within);
    key(a) == key(b)
}

/// The settings that are averaged: those over one kind of passages, where there are several.
fn means<'j, 'v>(family: &'j [Judged<'v>]) -> Vec<Vec<&'j Judged<'v>>> {
    let mut groups: Vec<Vec<&Judged>> = match family[0].view.family {
        Views::English => {
            let mut kinds: Vec<&str> = family.iter().map(|j| j.view.passages.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let of_kind = |kind: &&str| family.iter().filter(|j| j.view.passages == *kind).collect();
            kinds.iter().map(of_kind).collect()
        }
        Views::Matrix => vec![family.iter().filter(|j| j.view.questions != j.view.passages).collect()],
        Views::Own | Views::Mteb => vec![family.iter().collect()],
        Views::Pooled => vec![],
    };
    groups.retain(|group| group.len() > 1);
    groups
}

/// The mean over settings, each of which counts by its questions.
fn row(collection: &Collection, members: &[&Judged], bootstrap: &Bootstrap) -> Result<Row, StatisticsError> {
    let first = members[0];
    let count: usize = members.iter().map(|j| j.scores.rankings.len()).sum();
    let mean = |of: &dyn Fn(&Judged) -> f64| {
        members.iter().map(|j| of(j) * j.scores.rankings.len() as f64).sum::<f64>() / count as f64
    };
    let metric = |m: Metric| mean(&|j| j.scores.mean(m));
    let pooled = first.view.family == Views::Pooled;
    let interval = accuracy(collection, members, bootstrap);
    let interval = match interval {
        Err(StatisticsError::TooFew { .. }) => None,
        interval => Some(interval?),
    };
    Ok(Row {
        data: collection.name.clone(),
        view: first.view.family,
        questions: first.view.questions.clone(),
        paragraphs: first.view.passages.clone(),
        layer: first.reading.map(|r| r.layer),
        pooling: first.reading.map(|r| r.pooling),
        treatment: first.treatment,
        within: first.within,
        count,
        candidates: first.view.candidates.len(),
        accuracy_at_1: metric(Metric::ACCURACY),
        interval: interval.map(|e| [e.low, e.high]),
        recall_at_5: metric(Metric::Recall(5)),
        recall_at_10: metric(Metric::Recall(10)),
        mrr_at_10: metric(Metric::ReciprocalRank(10)),
        ndcg_at_10: metric(Metric::Ndcg(10)),
        map: metric(Metric::AveragePrecision),
        chance: mean(&|j| j.scores.chance(Metric::ACCURACY)),
        same_language: pooled.then(|| mean(&|j| same_language(collection, j))),
        rank_distance: pooled.then(|| {
            mean(&|j| {
                j.scores.rankings.iter().map(|r| r.distance() as f64).sum::<f64>() / j.scores.rankings.len() as f64
            })
        }),
    })
}

/// Accuracy@1 over all questions of some settings. A paragraph is drawn with its questions in all languages.
fn accuracy(collection: &Collection, members: &[&Judged], bootstrap: &Bootstrap) -> Result<Estimate, StatisticsError> {
    let values: Vec<f64> = members.iter().flat_map(|j| j.scores.per_query(Metric::ACCURACY)).collect();
    let clusters: Vec<usize> = members.iter().flat_map(|j| j.view.clusters(collection)).collect();
    bootstrap.clustered_mean(&values, &clusters)
}

fn same_language(collection: &Collection, judged: &Judged) -> f64 {
    let Judged { view, scores, .. } = judged;
    let same = view.asked.iter().zip(&scores.rankings).filter(|&(&question, ranking)| {
        let first = &collection.passages[view.candidates[ranking.top]];
        first.language == collection.questions[question].language
    });
    same.count() as f64 / view.asked.len() as f64
}

/// Settings as comma-separated text, unrounded.
pub fn csv(rows: &[Row]) -> Result<String, csv::Error> {
    let mut out = csv::Writer::from_writer(vec![]);
    let header = "data,view,questions,paragraphs,layer,pooling,vectors,passages,asked,candidates,accuracy_at_1,low,high,recall_at_5,recall_at_10,mrr_at_10,ndcg_at_10,map,chance,same_language,rank_distance";
    out.write_record(header.split(','))?;
    for r in rows {
        let word = |w: Option<String>| w.unwrap_or_default();
        let number = |n: Option<f64>| word(n.map(|n| n.to_string()));
        let words = [
            r.data.clone(),
            r.view.to_string(),
            r.questions.clone(),
            r.paragraphs.clone(),
            word(r.layer.map(|l| l.to_string())),
            word(r.pooling.map(|p| p.to_string())),
            r.treatment.to_string(),
            if r.within { "in paragraph".into() } else { "alone".into() },
            r.count.to_string(),
            r.candidates.to_string(),
        ];
        let interval = [r.interval.map(|i| i[0]), r.interval.map(|i| i[1])];
        let scores = [r.recall_at_5, r.recall_at_10, r.mrr_at_10, r.ndcg_at_10, r.map, r.chance].map(Some);
        let numbers = [Some(r.accuracy_at_1)].into_iter().chain(interval).chain(scores);
        let numbers = numbers.chain([r.same_language, r.rank_distance]).map(number);
        out.write_record(words.into_iter().chain(numbers))?;
    }
    let bytes = out.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Pictures of settings: every matrix of languages, and accuracy by layer where there are several.
pub fn figures(rows: &[Row]) -> Result<Vec<Figure>, PlotError> {
    let mut figures = vec![];
    let mut kinds: Vec<String> = vec![];
    for r in rows.iter().filter(|r| r.view == Views::Matrix && !is_mean(r)) {
        let kind = in_words(r);
        if kinds.contains(&kind) {
            continue;
        }
        let cells: Vec<&Row> = rows.iter().filter(|o| o.view == r.view && !is_mean(o) && in_words(o) == kind).collect();
        let (mut questions, mut passages) = (vec![], vec![]);
        for cell in &cells {
            for (list, code) in [(&mut questions, &cell.questions), (&mut passages, &cell.paragraphs)] {
                if !list.contains(&code) {
                    list.push(code);
                }
            }
        }
        kinds.push(kind.clone());
        // One cell is a number, not a picture: maps have English passages alone.
        if questions.len() * passages.len() < 2 {
            continue;
        }
        let title = format!("Accuracy@1, questions (rows) by passages: {kind}");
        let value = |q: &String, p: &String| {
            cells.iter().find(|c| c.questions == *q && c.paragraphs == *p).map(|c| c.accuracy_at_1)
        };
        let map = questions.iter().fold(HeatMap::new(title, passages.iter().map(|p| p.as_str())), |map, q| {
            map.row(q.as_str(), passages.iter().map(|p| value(q, p)))
        });
        figures.push(map.draw()?);
    }
    figures.extend(by_layer(rows)?);
    Ok(figures)
}

fn is_mean(r: &Row) -> bool {
    r.questions.starts_with("mean of ")
}

/// What a matrix is of.
fn in_words(r: &Row) -> String {
    let layer = r.layer.map(|l| format!(", layer {l}")).unwrap_or_default();
    let pooling = r.pooling.map(|p| format!(", {p}")).unwrap_or_default();
    format!("{}{layer}{pooling}, {}{}", r.data, r.treatment, if r.within { ", in paragraph" } else { "" })
}

/// The mean of each family of settings over numbered layers.
fn by_layer(rows: &[Row]) -> Result<Option<Figure>, PlotError> {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for r in rows.iter().filter(|r| is_mean(r)) {
        let Some(Layer::Hidden(layer)) = r.layer else { continue };
        let pooling = r.pooling.map(|p| p.to_string()).unwrap_or_default();
        let line = format!("{} to {}, {pooling}, {}", r.view, r.paragraphs, r.treatment);
        lines.entry(line).or_default().push((layer as f64, r.accuracy_at_1));
    }
    lines.values_mut().for_each(|points| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    if lines.values().all(|points| points.len() < 2) {
        return Ok(None);
    }
    let chart = LineChart::new("Accuracy@1 by layer, mean over languages", "blocks run", "accuracy@1").include_zero();
    Ok(Some(lines.into_iter().fold(chart, |chart, (name, points)| chart.series(name, points)).draw()?))
}

/// What a column shows of a line.
type Cell = fn(&Row) -> String;

/// Settings as a table. Columns in which nothing differs are left out.
pub fn table(rows: &[Row]) -> Table {
    let word = |w: Option<String>| w.unwrap_or_else(|| "-".into());
    let named: [(&str, Cell); 5] = [
        ("data", |r| r.data.clone()),
        ("view", |r| r.view.to_string()),
        ("pooling", |r| r.pooling.map_or("-".into(), |p| p.to_string())),
        ("vectors", |r| r.treatment.to_string()),
        ("passages", |r| if r.within { "in paragraph".into() } else { "alone".into() }),
    ];
    let differs = |of: &Cell| rows.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]));
    let shown: Vec<_> = named.iter().filter(|(_, of)| differs(of)).collect();
    let bias = rows.iter().any(|r| r.same_language.is_some());
    let fixed = [
        "questions",
        "paragraphs",
        "layer",
        "asked",
        "accuracy@1",
        "recall@5",
        "recall@10",
        "MRR@10",
        "nDCG@10",
        "mAP",
        "chance",
    ];
    let bias_columns = ["same language first", "rank distance"];
    let header = shown.iter().map(|(name, _)| *name).chain(fixed).chain(bias_columns.into_iter().filter(|_| bias));
    let mut table = Table::new(header);
    for r in rows {
        let accuracy = match r.interval {
            Some([low, high]) => Estimate { value: r.accuracy_at_1, low, high }.to_string(),
            None => format!("{:.3}", r.accuracy_at_1),
        };
        let words =
            [r.questions.clone(), r.paragraphs.clone(), word(r.layer.map(|l| l.to_string())), r.count.to_string()];
        let numbers = [r.recall_at_5, r.recall_at_10, r.mrr_at_10, r.ndcg_at_10, r.map, r.chance];
        let cells = shown.iter().map(|(_, of)| of(r)).chain(words).chain([accuracy]);
        let cells = cells.chain(numbers.map(|x| format!("{x:.3}")));
        let of_bias = [r.same_language.map(|x| format!("{x:.3}")), r.rank_distance.map(|x| format!("{x:.1}"))];
        table.row(cells.chain(of_bias.into_iter().filter(|_| bias).map(word)));
    }
    table
}
