//! Every question's rank in every setting, as tab-separated text: what all else can be computed from.

use super::views::Judged;
use crate::formats::collection::Collection;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The header of the lines.
pub const HEADER: &str =
    "data\tview\tquestions\tparagraphs\tlayer\tpooling\tvectors\tpassages\tquestion\tparagraph\tcandidates\tranks\n";

/// Columns that name a setting; the others are of a question in it.
const NAMING: usize = 8;

/// What a setting is called, in the words of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setting {
    /// The data set.
    pub data: String,
    /// The family of settings.
    pub view: String,
    /// Language of the questions.
    pub questions: String,
    /// Language of the passages, and what else they are.
    pub paragraphs: String,
    /// Where the states were read.
    pub layer: String,
    /// How they were pooled.
    pub pooling: String,
    /// What was done to the vectors.
    pub vectors: String,
    /// Whether passages stood alone.
    pub passages: String,
}

/// The ranks of a setting's questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranks {
    /// The rank of the best answer of each question.
    pub best: Vec<usize>,
    /// The paragraph of each question, for resampling.
    pub clusters: Vec<usize>,
}

/// Why a file of ranks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not as it should be.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        message: &'static str,
    },
}

/// Writes a line for every question of every setting, with the ranks of all of its answers.
pub fn write(collection: &Collection, judged: &[Judged], out: &mut impl Write) -> io::Result<()> {
    for j in judged {
        let word = |w: Option<String>| w.unwrap_or_else(|| "-".into());
        let setting = [
            collection.name.clone(),
            j.view.family.to_string(),
            j.view.questions.clone(),
            j.view.passages.clone(),
            word(j.reading.map(|r| r.layer.to_string())),
            word(j.reading.map(|r| r.pooling.to_string())),
            j.treatment.to_string(),
            if j.within { "in paragraph".into() } else { "alone".into() },
        ]
        .join("\t");
        for (&question, ranking) in j.view.asked.iter().zip(&j.scores.rankings) {
            let question = &collection.questions[question];
            let ranks: Vec<String> = ranking.positions.iter().map(usize::to_string).collect();
            let (id, cluster, candidates) = (&question.id, question.cluster, j.scores.candidates);
            writeln!(out, "{setting}\t{id}\t{cluster}\t{candidates}\t{}", ranks.join(","))?;
        }
    }
    Ok(())
}

/// Reads what [`write()`] wrote behind [`HEADER`].
pub fn read(path: &Path) -> Result<BTreeMap<Setting, Ranks>, RanksError> {
    let text = std::fs::read_to_string(path).map_err(|source| RanksError::Read { path: path.into(), source })?;
    let wrong = |line, message| RanksError::Line { path: path.into(), line, message };
    let mut lines = (1..).zip(text.lines());
    if lines.next().map(|(_, header)| header) != Some(HEADER.trim_end()) {
        return Err(wrong(1, "not a file of ranks: another header"));
    }
    let mut all: BTreeMap<Setting, Ranks> = BTreeMap::new();
    let mut current: Option<(String, Setting)> = None;
    for (line, text) in lines {
        let cells: Vec<&str> = text.split('\t').collect();
        let [data, view, questions, paragraphs, layer, pooling, vectors, passages, _, cluster, _, ranks] = cells[..]
        else {
            return Err(wrong(line, "expected 12 columns"));
        };
        let (Ok(cluster), Some(Ok(best))) = (cluster.parse(), ranks.split(',').next().map(str::parse)) else {
            return Err(wrong(line, "expected whole numbers for paragraph and ranks"));
        };
        let name = cells[..NAMING].join("\t");
        let setting = match &current {
            Some((known, setting)) if *known == name => setting.clone(),
            _ => {
                let own = |s: &str| s.to_string();
                let setting = Setting {
                    data: own(data),
                    view: own(view),
                    questions: own(questions),
                    paragraphs: own(paragraphs),
                    layer: own(layer),
                    pooling: own(pooling),
                    vectors: own(vectors),
                    passages: own(passages),
                };
                current = Some((name, setting.clone()));
                setting
            }
        };
        let ranks = all.entry(setting).or_default();
        ranks.best.push(best);
        ranks.clusters.push(cluster);
    }
    Ok(all)
}
