//! `kiungo eval`: question-to-paragraph retrieval of a model, with or without an adapter.

use super::common::TextBar;
use super::inputs;
use super::reader::{Opened, ReaderArgs};
use crate::retrieval::questions;
use crate::training::outcome::QuestionScores;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

/// Score question-to-paragraph retrieval of a model, with or without an adapter
///
/// Every question is scored against the English paragraphs and against those of its own language. Defaults come
/// from the adapter's kiungo.json, where there is one.
#[derive(Args)]
pub struct Eval {
    #[command(flatten)]
    reader: ReaderArgs,
    /// Folder with xquad.LANG.json files
    #[arg(long, value_name = "DIR")]
    xquad: PathBuf,
    /// Languages to score, e.g. en,es [default: all in the folder]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    languages: Option<Vec<String>>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let reader = self.reader.resolve()?;
        let languages = inputs::languages(&self.xquad, self.languages.as_deref(), &reader.encoding())?;
        let texts: Vec<Vec<&[u32]>> =
            languages.iter().map(|l| l.paragraphs.iter().chain(&l.questions).map(Vec::as_slice).collect()).collect();
        let Some(opened) = reader.open(&texts)? else { return Ok(()) };
        let Opened { model, adapters, .. } = &opened;

        let bar = TextBar::new(texts.iter().flatten().map(|t| t.len()), "embedding");
        let directions =
            questions::score(model, adapters.as_ref(), &languages, &reader.layers, reader.pooling, |n| bar.advance(n))?;
        bar.finish();
        opened.say_peak();
        let rows: Vec<QuestionScores> = directions.iter().map(QuestionScores::new).collect();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows).context("writing JSON")?);
        } else {
            println!("{}", crate::training::summary::questions_table(&rows));
        }
        for language in languages.iter().filter(|l| l.truncated > 0) {
            let (cut, code, longest) = (language.truncated, &language.code, reader.max_length);
            eprintln!("note: {cut} texts in {code} were cut at {longest} tokens");
        }
        Ok(())
    }
}
