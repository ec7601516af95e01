//! The model that reads texts, for the commands that embed them: its arguments, and what they come to.

use super::common::{self, Compute, DeviceChoice};
use super::inputs::{self, Encoding};
use super::model::Source;
use crate::device::Device;
use crate::formats::kiungo_json::{self, Record};
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Tokenizer};
use crate::formats::weights::Options;
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::llama::model::{Base, Model};
use crate::llama::{Layer, Parts};
use crate::ops::pooling::Pooling;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// A model, with or without an adapter, and how it reads. Defaults come from the kiungo.json beside the weights.
#[derive(Args)]
pub struct ReaderArgs {
    /// Folder of a Llama in Hugging Face's layout, or random:llama-3-8b (weights that know nothing, for benchmarks)
    #[arg(long, value_name = "DIR")]
    pub model: Source,
    /// Folder of a model whose tokenizer is used [default: the model's]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Folder of an adapter in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
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
}

/// What the arguments come to, before weights are read.
pub struct Reader {
    args: ReaderArgs,
    record: Option<Record>,
    base: Base,
    tokenizer: Tokenizer,
    pub config: Config,
    pub layers: Vec<Layer>,
    pub pooling: Pooling,
    pub bos: Bos,
    pub max_length: usize,
}

impl ReaderArgs {
    pub fn resolve(self) -> Result<Reader> {
        let config = self.model.config()?;
        let recorded_in = self.adapter.as_deref().or(self.model.folder());
        let record = recorded_in.map(Record::open_if_present).transpose()?.flatten();
        let tokenizer = self.tokenizer.as_deref().or(self.model.folder());
        let tokenizer =
            tokenizer.with_context(|| format!("{}: it has no tokenizer: give --tokenizer DIR", self.model))?;
        let known = record.as_ref();
        let stored = recorded(known, |r| &r.base)?.or(config.quantization.as_ref().map(Base::stored));
        let target: Option<Layer> = recorded(known, |r| &r.target)?;
        let layers = self.layers.clone().unwrap_or_else(|| target.into_iter().chain([Layer::Final]).collect());
        inputs::check_layers(&layers, &config)?;
        Ok(Reader {
            base: choose("--base", self.base, stored, Base::Bf16),
            pooling: choose("--pooling", self.pooling, recorded(known, |r| &r.pooling)?, Pooling::MeanNoSink),
            bos: choose("--bos", self.bos, known.map(|r| r.bos), Bos::Add),
            max_length: choose("--max-length", self.max_length, known.map(|r| r.max_length), config.max_positions),
            tokenizer: Tokenizer::open(tokenizer, &config)?,
            layers,
            config,
            record,
            args: self,
        })
    }
}

impl Reader {
    /// How texts become tokens.
    pub fn encoding(&self) -> Encoding<'_> {
        Encoding { tokenizer: &self.tokenizer, bos: self.bos, max_length: self.max_length }
    }

    /// Opens the device, and reads as much of the model as the layers need, for texts of up to `longest` tokens.
    pub fn open(&self, longest: usize) -> Result<(Model, Option<Adapters>)> {
        let device = common::open_device(self.args.device)?;
        let compute = Compute::or_default(self.args.compute, &device);
        let checkpoint = self.args.model.checkpoint()?;
        let parts = Parts {
            blocks: self.layers.iter().map(|l| l.blocks(&self.config)).max().unwrap_or(0),
            final_norm: self.layers.contains(&Layer::Final),
            head: false,
        };
        let options = Options { parts, base: self.base, compute, device: &device, positions: longest };
        let model = self.args.model.load(checkpoint.as_ref(), &self.config, options, |_| {})?;
        Ok((model, self.adapters(checkpoint.as_ref(), &device)?))
    }

    fn adapters(&self, checkpoint: Option<&Checkpoint>, device: &Device) -> Result<Option<Adapters>> {
        let Some(folder) = &self.args.adapter else { return Ok(None) };
        if let (Some(record), Some(checkpoint)) = (&self.record, checkpoint) {
            record.check_base(checkpoint, folder)?;
        }
        inputs::adapters(folder, &self.config, device).map(Some)
    }
}

/// A choice that a record holds as a word.
fn recorded<T: FromStr<Err: Display>>(record: Option<&Record>, word: impl Fn(&Record) -> &str) -> Result<Option<T>> {
    let Some(record) = record else { return Ok(None) };
    let word = word(record);
    word.parse().map(Some).map_err(|e| anyhow!("{}: {e}", kiungo_json::FILE))
}

/// The value given, else the recorded one (an override of which is said), else the default.
fn choose<T: PartialEq + Display>(name: &str, given: Option<T>, recorded: Option<T>, default: T) -> T {
    match (given, recorded) {
        (Some(given), Some(recorded)) if given != recorded => {
            eprintln!("note: {name} {given} overrides the {recorded} that the adapter was trained with");
            given
        }
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) => default,
    }
}
