//! Questions and paragraphs in SQuAD's JSON (version 1.1), as XQuAD has them in twelve languages. LAReQA's XQuAD-R adds the
//! sentences of each paragraph.

use super::text::{self, Orthography, TextError, normalise};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// A titled text of several paragraphs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Article {
    /// Its title; may be empty.
    pub title: String,
    /// In the order of the file.
    pub paragraphs: Vec<Paragraph>,
}

/// A passage that answers its questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paragraph {
    /// The passage, in NFC.
    pub context: String,
    /// Its sentences, in NFC and in order, where the file lists them (XQuAD-R).
    pub sentences: Vec<String>,
    /// In the order of the file.
    pub questions: Vec<Question>,
}

/// A question whose answer is in its paragraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The same in all languages; unique in a file.
    pub id: String,
    /// The question, in NFC.
    pub text: String,
    /// The sentence of its paragraph in which the answer begins, where the file lists sentences.
    pub sentence: Option<usize>,
    /// How its answer lies in the text.
    pub answer: Answer,
}

/// How an answer's span lies in its paragraph. Retrieval of paragraphs does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The file has none.
    Absent,
    /// It stands where the file says, and within one sentence if there are sentences.
    Found,
    /// It reaches beyond the sentence that it begins in.
    Straddling,
    /// Another text stands there.
    Misplaced,
}

impl Answer {
    /// Looks an answer up. `start` counts characters (code points).
    pub fn locate(context: &str, answer: &str, start: usize) -> Answer {
        let rest = context.char_indices().nth(start).map(|(byte, _)| &context[byte..]);
        if rest.is_some_and(|rest| rest.starts_with(answer)) { Answer::Found } else { Answer::Misplaced }
    }
}

/// The contents of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// Its language, e.g. `en`.
    pub language: String,
    /// In the order of the file.
    pub articles: Vec<Article>,
    /// Letters with a cedilla that became Romanian letters with a comma below.
    pub respelled: usize,
}

/// Why a file of questions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SquadError {
    /// The folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be read as text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The file is not SQuAD's JSON.
    #[error("{}: not SQuAD v1.1 JSON ({found}): {message}; expected data, paragraphs, qas", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the file holds at its top.
        found: String,
        /// The first thing that does not fit.
        message: String,
    },
    /// There is nothing to score.
    #[error("{}: no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// Two questions have one id.
    #[error("{}: question id {id} occurs twice; ids must be unique to join languages", path.display())]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The id.
        id: String,
    },
    /// A language has no file.
    #[error("{}: no {file}; languages there: {there}", folder.display())]
    NoLanguage {
        /// The folder.
        folder: PathBuf,
        /// The file looked for.
        file: String,
        /// Languages that have files.
        there: String,
    },
    /// Two languages do not have the same questions about the same paragraphs.
    #[error("{}: {message}; files of one version of the data set are needed, as in {}", path.display(), other.display())]
    Misaligned {
        /// The file.
        path: PathBuf,
        /// The file it was compared with.
        other: PathBuf,
        /// The first difference.
        message: String,
    },
}

impl Dataset {
    /// All paragraphs in the order of the file.
    pub fn paragraphs(&self) -> impl Iterator<Item = &Paragraph> {
        self.articles.iter().flat_map(|article| &article.paragraphs)
    }

    /// All questions in the order of the file, each with the index of its paragraph in
    /// [`paragraphs`](Dataset::paragraphs).
    pub fn questions(&self) -> impl Iterator<Item = (usize, &Question)> {
        self.paragraphs().enumerate().flat_map(|(i, paragraph)| paragraph.questions.iter().map(move |q| (i, q)))
    }

    /// Reads a file in a language, e.g. `en`. Romanian is respelled, see [`Orthography`].
    pub fn open(path: &Path, language: &str) -> Result<Dataset, SquadError> {
        let file = parse(path, &text::read(path)?)?;
        let mut spelling = Spelling { orthography: Orthography::of_language(language), respelled: 0 };
        let articles: Vec<Article> = file.data.into_iter().map(|article| spelling.article(article)).collect();
        let dataset = Dataset { path: path.into(), language: language.into(), articles, respelled: spelling.respelled };
        dataset.check()?;
        Ok(dataset)
    }

    fn check(&self) -> Result<(), SquadError> {
        let mut ids = HashSet::new();
        for (i, paragraph) in self.paragraphs().enumerate() {
            if paragraph.context.trim().is_empty() {
                return Err(self.empty(format!("text in paragraph {i}")));
            }
            let sentences = paragraph.sentences.len();
            let lost = |q: &&Question| sentences > 0 && q.sentence.is_none_or(|s| s >= sentences);
            if let Some(question) = paragraph.questions.iter().find(lost) {
                return Err(
                    self.empty(format!("sentence of paragraph {i} that holds the answer of question {}", question.id))
                );
            }
        }
        for (_, question) in self.questions() {
            if question.text.trim().is_empty() {
                return Err(self.empty(format!("text in question {}", question.id)));
            }
            if !ids.insert(question.id.as_str()) {
                return Err(SquadError::DuplicateId { path: self.path.clone(), id: question.id.clone() });
            }
        }
        if ids.is_empty() { Err(self.empty("questions".into())) } else { Ok(()) }
    }

    fn empty(&self, what: String) -> SquadError {
        SquadError::Empty { path: self.path.clone(), what }
    }

    /// The first thing that keeps this file from being compared question by question with another.
    fn difference(&self, other: &Dataset) -> Option<String> {
        let (paragraphs, expected) = (self.paragraphs().count(), other.paragraphs().count());
        if paragraphs != expected {
            return Some(format!("{paragraphs} paragraphs, expected {expected}"));
        }
        let (questions, expected) = (self.questions().count(), other.questions().count());
        let mut both = self.questions().zip(other.questions());
        let different = both.find(|((i, a), (j, b))| i != j || a.id != b.id);
        match different {
            Some(((i, a), (j, b))) => {
                Some(format!("question {} of paragraph {i} stands where {} of paragraph {j} is expected", a.id, b.id))
            }
            None if questions != expected => Some(format!("{questions} questions, expected {expected}")),
            None => None,
        }
    }
}

/// Reads the file of each language in a folder, and checks that they ask the same questions about the same paragraphs.
pub fn open_languages(folder: &Path, languages: &[String]) -> Result<Vec<Dataset>, SquadError> {
    let files = files_in(folder)?;
    let read = |language: &String| match files.get(language) {
        Some(path) => Dataset::open(path, language),
        None => {
            let there: Vec<&str> = files.keys().map(String::as_str).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            let file = format!("xquad.{language}.json or {language}.json");
            Err(SquadError::NoLanguage { folder: folder.into(), file, there })
        }
    };
    let datasets = languages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    check_aligned(&datasets)?;
    Ok(datasets)
}

/// The languages that a folder has a file for, sorted.
pub fn languages_in(folder: &Path) -> Result<Vec<String>, SquadError> {
    Ok(files_in(folder)?.into_keys().collect())
}

/// The files of a folder by language: `xquad.LANGUAGE.json`, or else `LANGUAGE.json`.
fn files_in(folder: &Path) -> Result<BTreeMap<String, PathBuf>, SquadError> {
    let failed = |source| SquadError::Read { path: folder.into(), source };
    let mut named = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
        if let Some(name) = name {
            let (of_xquad, language) = (name.starts_with("xquad."), language_of_file(name));
            named.extend(language.map(|language| (!of_xquad, language.to_string(), path.clone())));
        }
    }
    let any_of_xquad = named.iter().any(|(other, ..)| !other);
    let chosen = named.into_iter().filter(|(other, ..)| any_of_xquad != *other);
    Ok(chosen.map(|(_, language, path)| (language, path)).collect())
}

/// The language in a file's name without its extension: `xquad.en`, `en`, `swh_Latn`.
pub fn language_of_file(name: &str) -> Option<&str> {
    let last = name.rsplit('.').next()?;
    let primary = last.split(['-', '_']).next()?;
    let is_code = (2..=3).contains(&primary.len()) && primary.bytes().all(|b| b.is_ascii_lowercase());
    is_code.then_some(last)
}

/// The same question ids, in the same order, about the same paragraphs, in all of them.
pub fn check_aligned(datasets: &[Dataset]) -> Result<(), SquadError> {
    let Some((first, others)) = datasets.split_first() else { return Ok(()) };
    for dataset in others {
        if let Some(message) = dataset.difference(first) {
            return Err(SquadError::Misaligned { path: dataset.path.clone(), other: first.path.clone(), message });
        }
    }
    Ok(())
}

/// Normalises texts and counts the letters that it respelled.
struct Spelling {
    orthography: Orthography,
    respelled: usize,
}

impl Spelling {
    fn text(&mut self, text: &str) -> String {
        let (text, respelled) = normalise(text, self.orthography);
        self.respelled += respelled;
        text
    }

    fn article(&mut self, article: JsonArticle) -> Article {
        let paragraphs = article.paragraphs.into_iter().map(|p| self.paragraph(p)).collect();
        Article { title: self.text(&article.title), paragraphs }
    }

    fn paragraph(&mut self, paragraph: JsonParagraph) -> Paragraph {
        let JsonParagraph { context, qas, sentences, sentence_breaks } = paragraph;
        let question = |q: JsonQuestion| {
            let (sentence, answer) =
                q.answers.first().map_or((None, Answer::Absent), |a| a.locate(&context, &sentence_breaks));
            Question { text: self.text(&q.question), id: q.id, sentence, answer }
        };
        let questions = qas.into_iter().map(question).collect();
        let sentences = sentences.iter().map(|s| self.text(s)).collect();
        Paragraph { context: self.text(&context), sentences, questions }
    }
}

#[derive(Deserialize)]
struct JsonFile {
    data: Vec<JsonArticle>,
}

#[derive(Deserialize)]
struct JsonArticle {
    #[serde(default)]
    title: String,
    paragraphs: Vec<JsonParagraph>,
}

#[derive(Deserialize)]
struct JsonParagraph {
    context: String,
    qas: Vec<JsonQuestion>,
    #[serde(default)]
    sentences: Vec<String>,
    /// Begin and end of each sentence, in characters.
    #[serde(default)]
    sentence_breaks: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
struct JsonQuestion {
    id: String,
    question: String,
    #[serde(default)]
    answers: Vec<JsonAnswer>,
}

#[derive(Deserialize)]
struct JsonAnswer {
    text: String,
    answer_start: usize,
}

impl JsonAnswer {
    /// The sentence in which it begins, and how it lies.
    fn locate(&self, context: &str, breaks: &[[usize; 2]]) -> (Option<usize>, Answer) {
        let sentence = breaks.iter().rposition(|[begin, _]| *begin <= self.answer_start);
        let end = self.answer_start.saturating_add(self.text.chars().count());
        let answer = match (Answer::locate(context, &self.text, self.answer_start), sentence) {
            (Answer::Found, Some(i)) if end > breaks[i][1] => Answer::Straddling,
            (answer, _) => answer,
        };
        (sentence, answer)
    }
}

fn parse(path: &Path, text: &str) -> Result<JsonFile, SquadError> {
    serde_json::from_str(text).map_err(|e| {
        let found = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => {
                let keys: Vec<&str> = map.keys().take(5).map(String::as_str).collect();
                format!("an object of {}", if keys.is_empty() { "nothing".into() } else { keys.join(", ") })
            }
            Ok(Value::Array(items)) => format!("an array of {}", items.len()),
            Ok(other) => format!("{other:.40}"),
            Err(_) => "not one JSON value".into(),
        };
        SquadError::Format { path: path.into(), found, message: e.to_string() }
    })
}
