//! `kiungo eval`: question-to-paragraph retrieval of a model, with or without an adapter.

use super::common;
use super::inputs;
use super::reader::ReaderArgs;
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
        let longest = languages.iter().map(|l| l.longest()).max().unwrap_or(1);
        let (model, adapters) = reader.open(longest)?;

        let bar = common::progress(languages.iter().map(|l| l.texts()).sum(), "scoring");
        let directions =
            questions::score(&model, adapters.as_ref(), &languages, &reader.layers, reader.pooling, |n| {
                bar.inc(n as u64)
            })?;
        bar.finish_and_clear();
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
