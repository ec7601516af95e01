//! Questions and paragraphs in SQuAD's JSON (version 1.1), as XQuAD has them in twelve languages.

use super::text::{Orthography, normalise};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
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
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
        let bytes = std::fs::read(path).map_err(|source| SquadError::Read { path: path.into(), source })?;
        let file = parse(path, &bytes)?;
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

/// Reads `xquad.LANGUAGE.json` of each language in a folder, and checks that they ask the same questions about the same
/// paragraphs.
pub fn open_languages(folder: &Path, languages: &[String]) -> Result<Vec<Dataset>, SquadError> {
    let read = |language: &String| {
        let file = format!("xquad.{language}.json");
        let path = folder.join(&file);
        if path.is_file() {
            return Dataset::open(&path, language);
        }
        let there = match languages_in(folder)?.join(", ") {
            none if none.is_empty() => "none".into(),
            there => there,
        };
        Err(SquadError::NoLanguage { folder: folder.into(), file, there })
    };
    let datasets = languages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    check_aligned(&datasets)?;
    Ok(datasets)
}

/// The languages that a folder has an `xquad.LANGUAGE.json` for, sorted.
pub fn languages_in(folder: &Path) -> Result<Vec<String>, SquadError> {
    let failed = |source| SquadError::Read { path: folder.into(), source };
    let mut languages = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let language = name.to_str().and_then(|name| name.strip_prefix("xquad.")?.strip_suffix(".json"));
        languages.extend(language.map(String::from));
    }
    languages.sort();
    Ok(languages)
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
        let questions = paragraph.qas.into_iter().map(|q| Question { text: self.text(&q.question), id: q.id });
        let questions = questions.collect();
        Paragraph { context: self.text(&paragraph.context), questions }
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
}

#[derive(Deserialize)]
struct JsonQuestion {
    id: String,
    question: String,
}

fn parse(path: &Path, bytes: &[u8]) -> Result<JsonFile, SquadError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let found = match serde_json::from_slice(bytes) {
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
