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

const COLUMNS: &str = "expected 12 columns";

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

impl Setting {
    /// From its cells in a line.
    fn named(cells: &str) -> Setting {
        let mut cells = cells.split('\t').map(str::to_string);
        let mut next = || cells.next().unwrap_or_default();
        Setting {
            data: next(),
            view: next(),
            questions: next(),
            paragraphs: next(),
            layer: next(),
            pooling: next(),
            vectors: next(),
            passages: next(),
        }
    }
}

/// The ranks of a setting's questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranks {
    /// The rank of the best answer of each question.
    pub best: Vec<usize>,
    /// The paragraph of each question, for resampling.
    pub clusters: Vec<usize>,
    /// Answers of all questions.
    pub answers: usize,
    /// Candidates of a question.
    pub candidates: usize,
}

impl Ranks {
    /// Accuracy@1 of a random order.
    pub fn chance(&self) -> f64 {
        self.answers as f64 / (self.best.len() * self.candidates).max(1) as f64
    }
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
    let mut current: Option<(&str, &mut Ranks)> = None;
    for (line, text) in lines {
        let mut tabs = text.match_indices('\t').map(|(at, _)| at);
        let Some(end) = tabs.nth(NAMING - 1) else { return Err(wrong(line, COLUMNS)) };
        let (name, rest) = (&text[..end], &text[end + 1..]);
        let mut cells = rest.split('\t').skip(1);
        let (Some(cluster), Some(candidates), Some(ranks), None) =
            (cells.next(), cells.next(), cells.next(), cells.next())
        else {
            return Err(wrong(line, COLUMNS));
        };
        let numbers = (cluster.parse(), candidates.parse(), ranks.split(',').next().map(str::parse));
        let (Ok(cluster), Ok(candidates), Some(Ok(best))) = numbers else {
            return Err(wrong(line, "expected whole numbers for paragraph, candidates and ranks"));
        };
        let found = match current {
            // Lines of a setting stand together.
            Some((known, found)) if known == name => found,
            _ => all.entry(Setting::named(name)).or_default(),
        };
        found.best.push(best);
        found.clusters.push(cluster);
        found.answers += ranks.split(',').count();
        found.candidates = candidates;
        current = Some((name, found));
    }
    Ok(all)
}
