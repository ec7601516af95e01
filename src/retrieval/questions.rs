//! A collection as tokens, and its vectors under a model.

use super::Embeddings;
use super::embed::{EmbedError, Reading, embed_all};
use crate::formats::collection::Collection;
use crate::formats::tokenizer::{Encoding, TokenizerError};
use crate::llama::adapters::Adapters;
use crate::llama::model::Model;
use rayon::prelude::*;
use std::ops::Range;

/// A collection as tokens, ready to be embedded under any state of a model.
#[derive(Clone, Debug)]
pub struct Questions {
    /// The texts, and what answers what.
    pub collection: Collection,
    questions: Vec<Vec<u32>>,
    passages: Vec<Vec<u32>>,
    paragraphs: Vec<Vec<u32>>,
    /// For each paragraph, the tokens of the stretches that it falls into: its first token, and its sentences.
    stretches: Vec<Vec<usize>>,
    /// For each passage that is a sentence, its stretch among those of all paragraphs; none where it was cut off.
    place: Vec<Option<usize>>,
    /// Texts of each language that were cut.
    truncated: Vec<usize>,
}

/// Unit vectors of a collection's texts under several readings.
#[derive(Clone, Debug)]
pub struct Vectors {
    /// How the model was read; one of each of the following for each reading.
    pub readings: Vec<Reading>,
    /// A row a question.
    pub questions: Vec<Embeddings>,
    /// A row a passage.
    pub passages: Vec<Embeddings>,
    /// A row a passage, pooled inside its paragraph; none where passages are whole.
    pub within: Vec<Embeddings>,
}

impl Vectors {
    /// Those under some of the readings.
    pub fn only(self, readings: &[Reading]) -> Vectors {
        let pick = |all: Vec<Embeddings>| {
            let kept = all.into_iter().zip(&self.readings).filter(|(_, reading)| readings.contains(reading));
            kept.map(|(rows, _)| rows).collect()
        };
        let [questions, passages, within] = [self.questions, self.passages, self.within].map(pick);
        let readings = self.readings.into_iter().filter(|reading| readings.contains(reading)).collect();
        Vectors { readings, questions, passages, within }
    }
}

impl Questions {
    /// The tokens of all texts.
    pub fn new(collection: Collection, encode: &Encoding) -> Result<Questions, TokenizerError> {
        let mut truncated = vec![0; collection.languages.len()];
        let asked: Vec<(&str, usize)> = collection.questions.iter().map(|q| (q.text.as_str(), q.language)).collect();
        let texts: Vec<(&str, usize)> = collection.passages.iter().map(|p| (p.text.as_str(), p.language)).collect();
        let questions = all_ids(encode, &asked, &mut truncated)?;
        let passages = all_ids(encode, &texts, &mut truncated)?;
        let mut within: Vec<Vec<usize>> = collection.paragraphs.iter().map(|_| vec![]).collect();
        for (i, passage) in collection.passages.iter().enumerate() {
            passage.within.iter().for_each(|(paragraph, _)| within[*paragraph].push(i));
        }
        let (mut paragraphs, mut stretches, mut place) = (vec![], vec![], vec![None; collection.passages.len()]);
        let mut rows = 0;
        for (text, passages) in collection.paragraphs.iter().zip(within) {
            // A language that was left out has no passages any more.
            let Some(&first) = passages.first() else { continue };
            let bytes: Vec<Range<usize>> =
                passages.iter().filter_map(|&p| Some(collection.passages[p].within.as_ref()?.1.clone())).collect();
            let cut = &mut truncated[collection.passages[first].language];
            let (ids, sentences) = encode.parts(text, &bytes, cut)?;
            let (lengths, places) = cut_up(ids.len(), &sentences);
            passages.iter().zip(places).for_each(|(&p, stretch)| place[p] = stretch.map(|s| rows + s));
            rows += lengths.len();
            stretches.push(lengths);
            paragraphs.push(ids);
        }
        Ok(Questions { collection, questions, passages, paragraphs, stretches, place, truncated })
    }

    /// The texts in the order that they are embedded in, a list at a time; no list is empty.
    pub fn lists(&self) -> Vec<Vec<&[u32]>> {
        let lists = [&self.paragraphs, &self.questions, &self.passages].into_iter().filter(|list| !list.is_empty());
        lists.map(|list| list.iter().map(Vec::as_slice).collect()).collect()
    }

    /// Texts to embed.
    pub fn texts(&self) -> usize {
        self.questions.len() + self.passages.len() + self.paragraphs.len()
    }

    /// The longest text, tokens.
    pub fn longest(&self) -> usize {
        let all = self.questions.iter().chain(&self.passages).chain(&self.paragraphs);
        all.map(Vec::len).max().unwrap_or(0)
    }

    /// What was cut, in words.
    pub fn cuts(&self, max_length: usize) -> impl Iterator<Item = String> + '_ {
        let name = &self.collection.name;
        let cut = self.truncated.iter().zip(&self.collection.languages).filter(|(n, _)| **n > 0);
        cut.map(move |(n, code)| format!("{name}: {n} texts in {code} were cut at {max_length} tokens."))
    }

    /// All texts under each of `readings`, in one pass over the model. `progress` is told how many texts were done.
    pub fn embed(
        &self,
        model: &Model,
        adapters: Option<&Adapters>,
        readings: &[Reading],
        progress: impl Fn(usize),
    ) -> Result<Vectors, EmbedError> {
        let embed = |texts: &[Vec<u32>], stretches: Option<&[Vec<usize>]>| {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            embed_all(model, adapters, &texts, stretches, readings, &progress)
        };
        let within = match self.paragraphs.is_empty() {
            true => vec![],
            false => embed(&self.paragraphs, Some(&self.stretches))?,
        };
        let within = within.iter().map(|rows| rows.select_or_zero(&self.place)).collect();
        Ok(Vectors {
            readings: readings.to_vec(),
            questions: embed(&self.questions, None)?,
            passages: embed(&self.passages, None)?,
            within,
        })
    }
}

/// The tokens of texts, each with its language, by all threads; adds to `truncated` how many of each language were cut.
fn all_ids(
    encode: &Encoding,
    texts: &[(&str, usize)],
    truncated: &mut [usize],
) -> Result<Vec<Vec<u32>>, TokenizerError> {
    let ids = |&(text, _): &(&str, usize)| {
        let mut cut = 0;
        encode.ids(text, &mut cut).map(|ids| (ids, cut))
    };
    let found: Vec<(Vec<u32>, usize)> = texts.par_iter().map(ids).collect::<Result<_, _>>()?;
    found.iter().zip(texts).for_each(|((_, cut), (_, language))| truncated[*language] += cut);
    Ok(found.into_iter().map(|(ids, _)| ids).collect())
}

/// The lengths of the stretches that a text of `tokens` tokens falls into, and for each sentence its stretch. The first
/// token, the sink, is in no sentence.
fn cut_up(tokens: usize, sentences: &[Range<usize>]) -> (Vec<usize>, Vec<Option<usize>>) {
    let (mut lengths, mut places) = (vec![1], vec![]);
    let mut done = 1;
    let mut stretch = |until: usize| {
        let length = until.saturating_sub(done);
        if length > 0 {
            lengths.push(length);
            done = until;
        }
        (length > 0).then(|| lengths.len() - 1)
    };
    for sentence in sentences {
        stretch(sentence.start);
        places.push(stretch(sentence.end));
    }
    stretch(tokens);
    (lengths, places)
}
