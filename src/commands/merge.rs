//! `kiungo merge`: an adapter made part of its base.

use super::common::{self, Compute, DeviceChoice};
use super::inputs;
use super::model::{ModelFiles, Source};
use super::plan;
use crate::device::Device;
use crate::formats::kiungo_json::Record;
use crate::formats::output::{self, NewFolder};
use crate::formats::peft::Adapter;
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Encoding};
use crate::formats::weights::{self, Options};
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::llama::model::{Base, Model, names};
use crate::llama::plan::{During, Ledger};
use crate::llama::{Layer, Parts};
use crate::retrieval::embed::{memory, states};
use crate::training::{builtin, merge};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Make an adapter part of its base: a model folder that needs no adapter
///
/// Each adapted weight becomes W + scale B A, added in f32 and rounded to bf16 once. The folder is in Hugging Face's layout
/// and loads in transformers, and here. Over a 4-bit base, W is what its codes stand for: the adapter learned beside those
/// values. A sample of texts is then run through the base with the adapter beside it and through the merged model, and the
/// largest change of a hidden state is printed: it comes from the rounding to bf16, as large as that of bf16 activations.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Merge {
    /// The base: folder of a Llama in Hugging Face's layout, or its name on the hub (org/name, org/name@revision)
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// Folder of the adapter, in PEFT's layout
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// New folder for the model
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The base's values: bf16 or f32, as the files have them, or nf4 or nf4-double, quantised and dequantised
    /// [default: what the adapter was trained on, else the files']
    #[arg(long, value_name = "NAME")]
    base: Option<Base>,
    /// The sample's texts, one a line [default: built-in words]
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Texts of the sample; 0 compares nothing
    #[arg(long, value_name = "N", default_value_t = 32)]
    sample: usize,
    /// auto, cpu or cuda; where the sample is run
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    compute: Option<Compute>,
}

const EXAMPLES: &str = "\
Examples:
  kiungo merge --model Llama-3.1-8B --adapter runs/0001/adapter --output merged
  kiungo merge --model Llama-3.1-8B --adapter runs/0001/adapter --base bf16 --output merged";

/// Tokens of a text of the sample.
const LONGEST: usize = 512;

impl Merge {
    pub fn run(self) -> Result<()> {
        output::check_new(&self.output)?;
        let files = self.model.open()?;
        let config = &files.config;
        let adapter = Adapter::open(&self.adapter, config)?;
        let record = Record::open_if_present(&self.adapter)?;
        let base = self.base(config, record.as_ref())?;
        let sample = self.sample(&files, record.as_ref())?;
        let checkpoint = files.whole()?;
        if let Some(record) = &record {
            record.check_base(&checkpoint, &self.adapter)?;
        }
        let runner = self.runner(config, &sample)?;
        let before = match &runner {
            Some(runner) => {
                let adapters = inputs::adapters(&self.adapter, config, &runner.device)?;
                Some(runner.states(&checkpoint, config, base, Some(&adapters))?)
            }
            None => None,
        };

        let new = NewFolder::create(&self.output)?;
        let bar = common::progress(names::all(config).len(), "merging");
        let missing = merge::write(new.path(), &checkpoint, config, &adapter, base, || bar.inc(1))?;
        bar.finish_and_clear();
        if let Some(record) = record {
            Record { base: Base::Bf16.to_string(), ..record }.write(new.path())?;
        }
        for name in missing {
            eprintln!("note: {name} is in no file of {files}, nor of the merged model");
        }
        if let (Some(runner), Some(before)) = (&runner, before) {
            let merged = Config::open(new.path())?;
            let after = runner.states(&Checkpoint::open(new.path())?, &merged, Base::Bf16, None)?;
            println!("{}", largest_change(config, &before, &after, sample.len()));
        }
        new.commit()?;
        println!("{} with {}: {}", files, self.adapter.display(), self.output.display());
        Ok(())
    }

    /// What the adapter was trained on, unless the user says otherwise; always the files', where they are 4-bit.
    fn base(&self, config: &Config, record: Option<&Record>) -> Result<Base> {
        let stored = config.quantization.as_ref().map(Base::stored);
        let recorded = record.map(|r| r.base.parse::<Base>().map_err(anyhow::Error::msg)).transpose();
        let recorded =
            recorded.with_context(|| self.adapter.join(crate::formats::kiungo_json::FILE).display().to_string())?;
        match (stored, self.base) {
            (Some(stored), Some(asked)) => {
                ensure!(stored == asked, "--base {asked}: the files hold {stored} weights; leave --base out");
                Ok(stored)
            }
            (Some(stored), None) => Ok(stored),
            (None, Some(asked)) => {
                if let Some(trained) = recorded.filter(|&trained| trained != asked) {
                    eprintln!("note: the adapter was trained on a {trained} base, and is merged into {asked} weights");
                }
                Ok(asked)
            }
            (None, None) => {
                let base = recorded.unwrap_or(Base::Bf16);
                if base.is_quantised() {
                    eprintln!(
                        "note: weights are quantised to {base} and dequantised, as in training; --base bf16 takes the files'"
                    );
                }
                Ok(base)
            }
        }
    }

    fn sample(&self, files: &ModelFiles, record: Option<&Record>) -> Result<Vec<Vec<u32>>> {
        if self.sample == 0 {
            return Ok(vec![]);
        }
        let tokenizer = files.tokenizer(None)?;
        let max_length = LONGEST.min(files.config.max_positions);
        let encode = Encoding { tokenizer: &tokenizer, bos: record.map_or(Bos::Add, |r| r.bos), max_length };
        match &self.texts {
            Some(path) => inputs::lines(path, &encode, self.sample),
            None => builtin::words().take(self.sample).map(|word| Ok(encode.ids(word, &mut 0)?)).collect(),
        }
    }

    /// None where there is no sample.
    fn runner<'a>(&self, config: &Config, sample: &'a [Vec<u32>]) -> Result<Option<Runner<'a>>> {
        if sample.is_empty() {
            return Ok(None);
        }
        let device = common::open_device(self.device)?;
        let texts: Vec<&[u32]> = sample.iter().map(Vec::as_slice).collect();
        let runner = Runner { compute: self.compute, device, texts };
        let mut ledger = Ledger::of_model(config, runner.parts(config), Base::Bf16, runner.longest());
        let compute = Compute::or_default(self.compute, &runner.device);
        for (what, bytes) in memory(config, compute, 0, &runner.device, &runner.texts, 0) {
            ledger.add(what, bytes, During::Running);
        }
        plan::fit(&ledger, &runner.device, Vec::new).context("the sample; --sample 0 compares nothing")?;
        Ok(Some(runner))
    }
}

/// What runs the sample.
struct Runner<'a> {
    device: Device,
    compute: Option<Compute>,
    texts: Vec<&'a [u32]>,
}

impl Runner<'_> {
    fn parts(&self, config: &Config) -> Parts {
        Parts { blocks: config.layers, final_norm: true, head: false }
    }

    fn longest(&self) -> usize {
        self.texts.iter().map(|text| text.len()).max().unwrap_or(1)
    }

    /// Every token's state at every layer.
    fn states(
        &self,
        checkpoint: &Checkpoint,
        config: &Config,
        base: Base,
        adapters: Option<&Adapters>,
    ) -> Result<Vec<Vec<f32>>> {
        let compute = Compute::or_default(self.compute, &self.device);
        let (parts, positions) = (self.parts(config), self.longest());
        let options = Options { parts, base, compute, device: &self.device, positions };
        let model: Model = weights::load(checkpoint, config, options, |_| {})?;
        let bar = common::progress(self.texts.len(), "sample");
        let states = states(&model, adapters, &self.texts, &layers(config), |n| bar.inc(n as u64))?;
        bar.finish_and_clear();
        Ok(states)
    }
}

fn layers(config: &Config) -> Vec<Layer> {
    (0..=config.layers).map(Layer::Hidden).chain([Layer::Final]).collect()
}

/// The token whose state changed most, by the change's norm over the state's, and the mean of all tokens at that layer.
fn largest_change(config: &Config, before: &[Vec<f32>], after: &[Vec<f32>], texts: usize) -> String {
    let hidden = config.hidden_size;
    let norm = |x: &[f32]| x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let change = |(before, after): (&[f32], &[f32])| {
        let change: Vec<f32> = before.iter().zip(after).map(|(b, a)| a - b).collect();
        norm(&change) / norm(before).max(f64::MIN_POSITIVE)
    };
    let mut largest = (0.0, 0.0, Layer::Hidden(0));
    for (layer, (before, after)) in layers(config).into_iter().zip(before.iter().zip(after)) {
        let changes: Vec<f64> = before.chunks_exact(hidden).zip(after.chunks_exact(hidden)).map(change).collect();
        let mean = changes.iter().sum::<f64>() / changes.len().max(1) as f64;
        // In this order what is not a number counts as the largest.
        let most = changes.into_iter().max_by(f64::total_cmp).unwrap_or(0.0);
        if most.total_cmp(&largest.0).is_gt() {
            largest = (most, mean, layer);
        }
    }
    let tokens = before.first().map_or(0, |states| states.len() / hidden);
    let (most, mean, layer) = largest;
    format!(
        "largest change of a hidden state, against the base with the adapter beside it: {:.2} % of its length, at layer \
         {layer}, where the mean is {:.2} % ({texts} texts, {tokens} tokens)",
        100.0 * most,
        100.0 * mean
    )
}
