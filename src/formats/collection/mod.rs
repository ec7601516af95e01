//! Questions, passages, and which passage answers which question: what every retrieval data set comes to.
//!
//! [`Collection::open`] tells the data sets apart by their files. Texts are in NFC, and Romanian ones in letters with a
//! comma below.

mod beir;
mod json_lines;
mod squad;

use super::squad::SquadError;
use super::text::{Orthography, TextError, normalise, read};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A data set in all the languages that it was read in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// What it is, e.g. `XQuAD`.
    pub name: String,
    /// Codes of its languages, as its files name them.
    pub languages: Vec<String>,
    /// All questions, language after language.
    pub questions: Vec<Question>,
    /// All candidates, language after language.
    pub passages: Vec<Passage>,
    /// Paragraphs that some passages are sentences of.
    pub paragraphs: Vec<String>,
    /// What was found, dropped or changed, in words.
    pub notes: Vec<String>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its id in the data set, the same in all languages.
    pub id: String,
    /// Index of its language.
    pub language: usize,
    /// The question.
    pub text: String,
    /// The passages that answer it, of all languages, ascending.
    pub relevant: Vec<usize>,
    /// Questions of one paragraph share a cluster: they are not independent of each other.
    pub cluster: usize,
    /// The article that it is about.
    pub article: usize,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Index of its language.
    pub language: usize,
    /// The passage.
    pub text: String,
    /// The paragraph that it is a sentence of, and its place there in bytes.
    pub within: Option<(usize, Range<usize>)>,
    /// The article that it belongs to.
    pub article: usize,
    /// From another data set: it answers nothing, and only makes the search harder.
    pub distractor: bool,
}

/// Why files do not make a collection.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    /// A file cannot be read as text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not as it should be.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A file of SQuAD's kind.
    #[error(transparent)]
    Squad(#[from] SquadError),
    /// The files are of no known kind.
    #[error(
        "{}: {found}; known are folders of xquad.LANG.json or LANG.json (XQuAD, XQuAD-R), a SQuAD v1.1 .json, AfriQA gold passages and Belebele as .jsonl, and BEIR folders (corpus.jsonl, queries.jsonl, qrels/*.tsv)",
        path.display()
    )]
    Kind {
        /// The file or folder.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// No question can be scored.
    #[error("{}: no question has an answer among the passages", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
}

type Result<T> = std::result::Result<T, CollectionError>;

/// The code of a language that a data set does not name (ISO 639: undetermined).
pub const UNNAMED: &str = "und";

/// True for English, by any of its codes: `en`, `eng_Latn`.
pub fn is_english(code: &str) -> bool {
    matches!(code.split(['-', '_']).next(), Some("en" | "eng"))
}

impl Collection {
    /// Reads a data set, whatever it is, in all languages that it has.
    pub fn open(path: &Path) -> Result<Collection> {
        let mut collection = if path.is_dir() { open_folder(path)? } else { open_file(path)? };
        collection.drop_unanswered();
        if collection.questions.is_empty() {
            return Err(CollectionError::Empty { path: path.into() });
        }
        Ok(collection)
    }

    /// Leaves the languages that `keep` names, and English, whose passages all questions are scored against.
    pub fn restrict(&mut self, keep: &[String]) {
        let kept = |&l: &usize| is_english(&self.languages[l]) || keep.contains(&self.languages[l]);
        let kept: Vec<usize> = (0..self.languages.len()).filter(kept).collect();
        let new = |language: usize| kept.binary_search(&language).ok();
        let mut places = vec![None; self.passages.len()];
        let mut passages = vec![];
        for (place, mut passage) in self.passages.drain(..).enumerate() {
            if let Some(language) = new(passage.language) {
                places[place] = Some(passages.len());
                passage.language = language;
                passages.push(passage);
            }
        }
        self.passages = passages;
        self.questions.retain_mut(|question| {
            question.relevant = question.relevant.iter().filter_map(|&p| places[p]).collect();
            new(question.language).map(|language| question.language = language).is_some()
        });
        self.languages = kept.iter().map(|&k| self.languages[k].clone()).collect();
    }

    /// Languages that questions are asked in.
    pub fn question_languages(&self) -> Vec<usize> {
        (0..self.languages.len()).filter(|&l| self.questions.iter().any(|q| q.language == l)).collect()
    }

    /// The index of English, against whose passages every question is scored.
    pub fn english(&self) -> Option<usize> {
        self.languages.iter().position(|code| is_english(code))
    }

    /// Adds the passages that another collection has in the same languages. Returns how many.
    pub fn add_distractors(&mut self, other: &Collection) -> usize {
        let (before, articles) = (self.passages.len(), 1 + self.passages.iter().map(|p| p.article).max().unwrap_or(0));
        let same = |code: &str| self.languages.iter().position(|c| c == code || is_english(c) && is_english(code));
        for passage in &other.passages {
            if let Some(language) = same(&other.languages[passage.language]) {
                let article = articles + passage.article;
                self.passages.push(Passage { language, within: None, article, distractor: true, ..passage.clone() });
            }
        }
        self.passages.len() - before
    }

    /// True where passages are sentences of paragraphs.
    pub fn has_sentences(&self) -> bool {
        !self.paragraphs.is_empty()
    }

    /// SHA-256 over all texts in order: what embeddings of this collection belong to.
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        let passages = self.passages.iter().map(|p| &p.text);
        for text in self.questions.iter().map(|q| &q.text).chain(passages).chain(&self.paragraphs) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        format!("{:x}", hash.finalize())
    }

    fn drop_unanswered(&mut self) {
        let before = self.questions.len();
        self.questions.retain(|q| !q.relevant.is_empty());
        let dropped = before - self.questions.len();
        if dropped > 0 {
            self.note(format!("{dropped} questions have no passage that answers them, and are left out"));
        }
    }

    fn note(&mut self, note: String) {
        self.notes.push(format!("{}: {note}.", self.name));
    }

    /// The index of a language, which is added where it is new.
    fn language(&mut self, code: &str) -> usize {
        self.languages.iter().position(|c| c == code).unwrap_or_else(|| {
            self.languages.push(code.into());
            self.languages.len() - 1
        })
    }
}

fn open_folder(path: &Path) -> Result<Collection> {
    let has = |name: &str| path.join(name).exists();
    if has("corpus.jsonl") && has("queries.jsonl") {
        return beir::open(path);
    }
    let entries = std::fs::read_dir(path).map_err(|source| CollectionError::Read { path: path.into(), source })?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut lines: Vec<PathBuf> = paths.filter(|path| is_named_json_lines(path)).collect();
    lines.sort();
    match (super::squad::languages_in(path)?.is_empty(), lines.is_empty()) {
        (false, _) => squad::open_folder(path),
        (true, false) => json_lines::open(&lines),
        (true, true) => Err(CollectionError::Kind { path: path.into(), found: "no data set in this folder".into() }),
    }
}

fn is_named_json_lines(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson")
}

fn open_file(path: &Path) -> Result<Collection> {
    if is_named_json_lines(path) {
        return json_lines::open(&[path.into()]);
    }
    // AfriQA's JSON lines are named .json.
    let text = read(path)?;
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(first) {
        Ok(serde_json::Value::Object(object)) if !object.contains_key("data") => json_lines::open(&[path.into()]),
        _ => squad::open_file(path),
    }
}

/// The lines of a JSON lines file that hold something, parsed, with their numbers from 1.
fn parse_lines<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<(usize, T)>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse = |(line, text): (usize, &str)| {
        let wrong = |e: serde_json::Error| CollectionError::Line { path: path.into(), line, message: e.to_string() };
        Ok((line, serde_json::from_str(text).map_err(wrong)?))
    };
    lines.map(parse).collect()
}

/// Normalises texts, each in the spelling of its language, and counts what it respelled.
#[derive(Default)]
struct Spelling(BTreeMap<String, usize>);

impl Spelling {
    fn text(&mut self, text: &str, language: &str) -> String {
        let (text, respelled) = normalise(text.trim(), Orthography::of_language(language));
        if respelled > 0 {
            *self.0.entry(language.into()).or_default() += respelled;
        }
        text
    }

    fn note(self, collection: &mut Collection) {
        for (language, n) in self.0 {
            collection.note(format!("{n} cedilla letters in {language} became comma-below ones"));
        }
    }
}
