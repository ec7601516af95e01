//! `kiungo eval`: question-to-paragraph retrieval of a model, with or without an adapter.

use super::common::{self, Compute, DeviceChoice};
use super::inputs::{self, Encoding};
use crate::formats::kiungo_json::{self, Record};
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Tokenizer};
use crate::formats::weights::{Options, load};
use crate::llama::config::Config;
use crate::llama::model::Base;
use crate::llama::{Layer, Parts};
use crate::ops::pooling::Pooling;
use crate::retrieval::questions;
use crate::training::outcome::QuestionScores;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// Score question-to-paragraph retrieval of a model, with or without an adapter
///
/// Every question is scored against the English paragraphs and against those of its own language. Defaults come
/// from the adapter's kiungo.json, where there is one.
#[derive(Args)]
pub struct Eval {
    /// Folder of a Llama in Hugging Face's layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of an adapter in PEFT's layout
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Folder with xquad.LANG.json files
    #[arg(long, value_name = "DIR")]
    xquad: PathBuf,
    /// Languages to score, e.g. en,es [default: all in the folder]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    languages: Option<Vec<String>>,
    /// Layers by number of blocks, or final [default: the adapter's target and final; without one: final]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    layers: Option<Vec<Layer>>,
    /// How the weights are held: f32, bf16, nf4 or nf4-double [default: the adapter's, else bf16]
    #[arg(long, value_name = "NAME")]
    base: Option<Base>,
    /// mean, mean-no-sink or last [default: the adapter's, else mean-no-sink]
    #[arg(long, value_name = "NAME")]
    pooling: Option<Pooling>,
    /// A BOS token in front: add where the tokenizer adds none, or tokenizer, as it does [default: the adapter's, else add]
    #[arg(long, value_name = "NAME")]
    bos: Option<Bos>,
    /// Longest text, tokens; longer ones are cut, and counted [default: the adapter's, else the model's own]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    compute: Option<Compute>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A choice that a record holds as a word.
fn recorded<T: FromStr<Err: Display>>(record: Option<&Record>, word: impl Fn(&Record) -> &str) -> Result<Option<T>> {
    let Some(record) = record else { return Ok(None) };
    let word = word(record);
    word.parse().map(Some).map_err(|e| anyhow!("{}: {e}", kiungo_json::FILE))
}

/// The value given, else the recorded one (an override of which is said), else the default.
fn choose<T: PartialEq + std::fmt::Display>(name: &str, given: Option<T>, recorded: Option<T>, default: T) -> T {
    match (given, recorded) {
        (Some(given), Some(recorded)) if given != recorded => {
            eprintln!("note: {name} {given} overrides the {recorded} that the adapter was trained with");
            given
        }
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) => default,
    }
}

impl Eval {
    pub fn run(self) -> Result<()> {
        let config = Config::open(&self.model)?;
        let beside = self.adapter.as_ref().unwrap_or(&self.model);
        let record = Record::open_if_present(beside)?;
        let record = record.as_ref();
        let stored = recorded(record, |r| &r.base)?.or(config.quantization.as_ref().map(Base::stored));
        let base = choose("--base", self.base, stored, Base::Bf16);
        let pooling = choose("--pooling", self.pooling, recorded(record, |r| &r.pooling)?, Pooling::MeanNoSink);
        let bos = choose("--bos", self.bos, record.map(|r| r.bos), Bos::Add);
        let max_length = choose("--max-length", self.max_length, record.map(|r| r.max_length), config.max_positions);
        let target: Option<Layer> = recorded(record, |r| &r.target)?;
        let layers = self.layers.clone().unwrap_or_else(|| target.into_iter().chain([Layer::Final]).collect());
        inputs::check_layers(&layers, &config)?;

        let tokenizer = Tokenizer::open(&self.model, &config)?;
        let encode = Encoding { tokenizer: &tokenizer, bos, max_length };
        let languages = inputs::languages(&self.xquad, self.languages.as_deref(), &encode)?;
        let longest = languages.iter().map(|l| l.longest()).max().unwrap_or(1);

        let device = common::open_device(self.device)?;
        let compute = Compute::or_default(self.compute, &device);
        let checkpoint = Checkpoint::open(&self.model)?;
        let parts = Parts {
            blocks: layers.iter().map(|l| l.blocks(&config)).max().unwrap_or(0),
            final_norm: layers.contains(&Layer::Final),
            head: false,
        };
        let options = Options { parts, base, compute, device: &device, positions: longest };
        let model = load(&checkpoint, &config, options, |_| {})?;
        let adapters = match &self.adapter {
            Some(folder) => {
                if let Some(record) = record {
                    record.check_base(&checkpoint, folder)?;
                }
                Some(inputs::adapters(folder, &config, &device)?)
            }
            None => None,
        };

        let bar = common::progress(languages.iter().map(|l| l.texts()).sum(), "scoring");
        let directions =
            questions::score(&model, adapters.as_ref(), &languages, &layers, pooling, |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        let rows: Vec<QuestionScores> = directions.iter().map(QuestionScores::new).collect();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows).context("writing JSON")?);
        } else {
            println!("{}", crate::training::summary::questions_table(&rows));
        }
        for language in languages.iter().filter(|l| l.truncated > 0) {
            eprintln!("note: {} texts in {} were cut at {max_length} tokens", language.truncated, language.code);
        }
        Ok(())
    }
}
