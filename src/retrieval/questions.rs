//! Question-to-paragraph retrieval: questions in one language against the paragraphs of the same text in English,
//! and in their own language.

use super::Embeddings;
use super::embed::{EmbedError, embed};
use super::scores::{ScoreError, Scores};
use crate::device::Device;
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::model::Model;
use crate::ops::pooling::Pooling;
use std::collections::HashMap;

/// The language whose paragraphs every question is scored against.
pub const PIVOT: &str = "en";

/// A question set in one language, as tokens.
#[derive(Clone, Debug)]
pub struct Language {
    /// Its code, e.g. `sw`.
    pub code: String,
    /// Tokens of each question.
    pub questions: Vec<Vec<u32>>,
    /// For each question, the paragraph that answers it.
    pub paragraph_of: Vec<usize>,
    /// Tokens of each paragraph.
    pub paragraphs: Vec<Vec<u32>>,
    /// Texts that were cut at the maximum length.
    pub truncated: usize,
}

impl Language {
    /// Texts to embed.
    pub fn texts(&self) -> usize {
        self.questions.len() + self.paragraphs.len()
    }

    /// The longest text, tokens.
    pub fn longest(&self) -> usize {
        self.questions.iter().chain(&self.paragraphs).map(Vec::len).max().unwrap_or(0)
    }
}

/// Scores of one direction at one layer.
#[derive(Clone, Debug)]
pub struct Direction {
    /// Language of the questions.
    pub questions: String,
    /// Language of the paragraphs.
    pub paragraphs: String,
    /// Where the states were read.
    pub layer: Layer,
    /// Rank of each question's paragraph.
    pub scores: Scores,
}

/// Why a question set could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum QuestionsError {
    /// The texts could not be embedded.
    #[error("{language}: {error}")]
    Embed {
        /// Language of the texts.
        language: String,
        /// Why.
        error: EmbedError,
    },
    /// The embeddings could not be compared.
    #[error(transparent)]
    Score(#[from] ScoreError),
}

/// Scores every language's questions against English paragraphs, and against those of its own language, at each of
/// `layers`. `progress` is told how many texts were embedded each time some are.
pub fn score(
    model: &Model,
    adapters: Option<&Adapters>,
    languages: &[Language],
    layers: &[Layer],
    pooling: Pooling,
    progress: impl Fn(usize),
) -> Result<Vec<Direction>, QuestionsError> {
    let mut paragraphs: HashMap<&str, Vec<Embeddings>> = HashMap::new();
    let mut questions: Vec<Vec<Embeddings>> = vec![];
    for language in languages {
        let texts: Vec<&[u32]> = language.paragraphs.iter().chain(&language.questions).map(Vec::as_slice).collect();
        let all = embed(model, adapters, &texts, layers, pooling, &progress)
            .map_err(|error| QuestionsError::Embed { language: language.code.clone(), error })?;
        let n = language.paragraphs.len();
        let part = |range: std::ops::Range<usize>| {
            let rows: Vec<usize> = range.collect();
            all.iter().map(|e| e.select(&rows)).collect::<Vec<_>>()
        };
        paragraphs.insert(&language.code, part(0..n));
        questions.push(part(n..texts.len()));
    }
    let mut directions = vec![];
    for (language, questions) in languages.iter().zip(&questions) {
        let mut corpora = vec![PIVOT];
        if language.code != PIVOT {
            corpora.push(&language.code);
        }
        let relevant: Vec<Vec<usize>> = language.paragraph_of.iter().map(|&p| vec![p]).collect();
        for corpus in corpora {
            let Some(paragraphs) = paragraphs.get(corpus) else { continue };
            for ((layer, questions), paragraphs) in layers.iter().zip(questions).zip(paragraphs) {
                directions.push(Direction {
                    questions: language.code.clone(),
                    paragraphs: corpus.into(),
                    layer: *layer,
                    scores: Scores::of(&Device::Cpu, questions, paragraphs, &relevant)?,
                });
            }
        }
    }
    Ok(directions)
}
