//! Files that commands read, turned into tokens and tensors, with what was dropped or cut said in notes.

use crate::device::Device;
use crate::formats::pairs::Pair;
use crate::formats::peft;
use crate::formats::squad;
use crate::formats::tokenizer::{Bos, Tokenizer, TokenizerError};
use crate::llama::Layer;
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::retrieval::questions::{Language, PIVOT};
use crate::training::batch::Group;
use anyhow::{Result, ensure};
use std::path::Path;

/// How texts become tokens.
pub struct Encoding<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether it is put in front.
    pub bos: Bos,
    /// Longest text.
    pub max_length: usize,
}

impl Encoding<'_> {
    /// The tokens of a text; counts it where it was cut.
    pub fn ids(&self, text: &str, truncated: &mut usize) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.tokenizer.encode(text, self.bos, self.max_length)?;
        *truncated += usize::from(encoded.truncated);
        Ok(encoded.ids)
    }

    /// A group of pairs, and how many of its texts were cut.
    pub fn group(&self, pairs: Vec<Pair>) -> Result<(Group, usize)> {
        let mut truncated = 0;
        let sources = pairs.iter().map(|p| self.ids(&p.source, &mut truncated)).collect::<Result<_, _>>()?;
        let targets = pairs.iter().map(|p| self.ids(&p.target, &mut truncated)).collect::<Result<_, _>>()?;
        Ok((Group { pairs, sources, targets }, truncated))
    }
}

/// The question sets of a folder, in the languages asked for and always in English, whose paragraphs all questions
/// are scored against.
pub fn languages(folder: &Path, codes: Option<&[String]>, encode: &Encoding) -> Result<Vec<Language>> {
    let mut codes = match codes {
        Some(codes) => codes.to_vec(),
        None => squad::languages_in(folder)?,
    };
    if !codes.iter().any(|c| c == PIVOT) {
        codes.insert(0, PIVOT.into());
    }
    let sets = squad::open_languages(folder, &codes)?;
    sets.iter().zip(&codes).map(|(set, code)| language(set, code, encode)).collect()
}

fn language(set: &squad::Dataset, code: &str, encode: &Encoding) -> Result<Language> {
    let mut language =
        Language { code: code.into(), questions: vec![], paragraph_of: vec![], paragraphs: vec![], truncated: 0 };
    for paragraph in set.paragraphs() {
        let place = language.paragraphs.len();
        language.paragraphs.push(encode.ids(&paragraph.context, &mut language.truncated)?);
        for question in &paragraph.questions {
            language.questions.push(encode.ids(&question.text, &mut language.truncated)?);
            language.paragraph_of.push(place);
        }
    }
    Ok(language)
}

/// Layers that the model has.
pub fn check_layers(layers: &[Layer], config: &Config) -> Result<()> {
    ensure!(!layers.is_empty(), "--layers is empty: give numbers of blocks from 0 to {}, or final", config.layers);
    for layer in layers {
        ensure!(layer.blocks(config) <= config.layers, "--layers {layer}: the model has {} blocks", config.layers);
    }
    Ok(())
}

/// A PEFT adapter as tensors on a device. Settings that this version does not know are named.
pub fn adapters(folder: &Path, config: &Config, device: &Device) -> Result<Adapters> {
    let adapter = peft::Adapter::open(folder, config)?;
    if !adapter.config.unknown.is_empty() {
        let (folder, unknown) = (folder.display(), adapter.config.unknown.join(", "));
        eprintln!("note: {folder}: settings of a newer PEFT are ignored: {unknown}");
    }
    Ok(adapter.on_device(device)?)
}
