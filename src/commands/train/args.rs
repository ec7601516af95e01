//! The arguments of `kiungo train`, and how they change a preset.

use crate::commands::common::{Compute, DeviceChoice};
use crate::commands::model::Source;
use crate::formats::tokenizer::Bos;
use crate::llama::Layer;
use crate::llama::config::{Config, Projections};
use crate::llama::model::Base;
use crate::ops::adamw::Precision;
use crate::ops::infonce::Direction;
use crate::ops::pooling::Pooling;
use crate::training::builtin;
use crate::training::settings::{Decay, Dequantize, Keep, Loss, Master, Method, Preset, Settings, When};
use crate::words::as_word;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Train adapters or all weights on pairs of words or sentences, and score before and after.
///
/// Without arguments it trains a small built-in model on built-in Swahili-English pairs.
///
/// What decides the result is recorded in the run's folder, so that --resume needs none of it again.
#[derive(Args, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[command(after_help = EXAMPLES)]
pub struct Train {
    /// Folder of a Llama in Hugging Face's layout (config.json, tokenizer.json, *.safetensors), its name on the hub
    /// (org/name, org/name@revision), of which only the files that are needed are fetched, or random:llama-3-8b (weights that
    /// know nothing, for benchmarks) [default: built in]
    #[arg(long, value_name = "DIR|NAME")]
    #[serde(with = "as_word::option")]
    pub model: Option<Source>,
    /// Folder of a model whose tokenizer is used [default: the model's]
    #[arg(long, value_name = "DIR", requires = "model")]
    pub tokenizer: Option<PathBuf>,
    /// Pairs to learn from: .tsv, .csv or .jsonl, source then target [default: built in]
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Pairs to choose by, and to watch for collapse [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE", requires = "pairs")]
    pub dev: Option<PathBuf>,
    /// Pairs to read once, at the end [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE", requires = "pairs")]
    pub control: Option<PathBuf>,
    /// Recipe to start from: clean (learns), or paper (arXiv 2506.15415 in every detail) [clean]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// What learns: lora (adapters) or full (all weights that the loss reaches) [lora]
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,
    /// How the frozen weights are held: f32, bf16, nf4 or nf4-double [clean: bf16, paper: nf4]
    #[arg(long, value_name = "NAME")]
    pub base: Option<Base>,
    /// Blocks with adapters: a half-open range as 0..2, a list as 0,3, all, or cka:4, the four below the target that change
    /// the pairs' last tokens most (1 - linear CKA, arXiv 2602.05988; see kiungo pilot) [clean: 0..2, paper: all]
    #[arg(long, value_name = "BLOCKS")]
    #[serde(with = "as_word::option")]
    pub blocks: Option<Blocks>,
    /// Where the loss reads: the state after so many blocks, or final [2]
    #[arg(long, value_name = "LAYER")]
    pub target: Option<Layer>,
    /// Rank of the adapters [16]
    #[arg(long, value_name = "N")]
    pub rank: Option<usize>,
    /// The adapters' scale is alpha / rank [32]
    #[arg(long, value_name = "X")]
    pub alpha: Option<f32>,
    /// Dropout on the adapters' inputs [0.05]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Linear layers with adapters: all, or some of q,k,v,o,gate,up,down [clean: all, paper: q,v]
    #[arg(long, value_name = "LIST")]
    #[serde(with = "as_word::option")]
    pub projections: Option<Projections>,
    /// infonce or triplet [clean: infonce, paper: triplet]
    #[arg(long, value_name = "NAME")]
    pub loss: Option<Loss>,
    /// Divides the cosines, for infonce [0.05]
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Margin, for triplet [0.4]
    #[arg(long, value_name = "X")]
    pub margin: Option<f32>,
    /// Who looks for a partner: both sides, or forward, the source alone [clean: both, paper: forward]
    #[arg(long, value_name = "NAME")]
    #[serde(with = "as_word::option")]
    pub direction: Option<Direction>,
    /// Times that each pair is seen [clean: 20, with the built-in model 60; paper: 5]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Pairs a step [clean: 64, paper: 8]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Peak learning rate [clean: 1e-3, full 2e-4; paper: 2e-4, full 2e-5]
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Steps of linear warm-up [50]
    #[arg(long, value_name = "N")]
    pub warmup: Option<usize>,
    /// AdamW's decoupled weight decay [0.01]
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// After the warm-up: linear, cosine or constant [linear]
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<Decay>,
    /// Largest norm of the gradient [no clipping]
    #[arg(long, value_name = "N")]
    pub clip: Option<f32>,
    /// Pairs computed at once, of the batch that the loss compares: less memory for a second forward pass [the batch]
    #[arg(long, value_name = "N")]
    pub chunk: Option<usize>,
    /// 4-bit weights are dequantised once (into bf16), each-step, or auto: once on a GPU that has room [auto]
    #[arg(long, value_name = "NAME")]
    pub dequantize: Option<Dequantize>,
    /// AdamW's moments: f32, bf16 or 8-bit, 8, 4 or 2 bytes a weight [f32]
    #[arg(long, value_name = "NAME")]
    pub moments: Option<Precision>,
    /// Where bf16 weights learn: f32 (in a copy of 4 bytes a weight) or none (in place, rounded at random) [f32]
    #[arg(long, value_name = "NAME")]
    pub master: Option<Master>,
    /// When weights change in full training: together, or at-once, which keeps no gradients of matrices [together]
    #[arg(long, value_name = "NAME")]
    pub update: Option<When>,
    /// What the backward pass finds: all activations, or states between blocks, which takes a second forward pass [all]
    #[arg(long, value_name = "NAME")]
    pub keep: Option<Keep>,
    /// Seeds the adapters, the order of pairs, dropout, splits and resampling [0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A new order of the pairs each epoch: on or off [on]
    #[arg(long, value_name = "WORD")]
    pub shuffle: Option<Switch>,
    /// mean, mean-no-sink or last, in training and evaluation [clean: mean-no-sink, paper: mean, then mean-no-sink]
    #[arg(long, value_name = "NAME")]
    #[serde(with = "as_word::option")]
    pub pooling: Option<Pooling>,
    /// A BOS token in front: add where the tokenizer adds none, or tokenizer, as it does [add]
    #[arg(long, value_name = "NAME")]
    pub bos: Option<Bos>,
    /// Longest text, tokens; longer ones are cut, and counted [the model's own]
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// Where to score before and after: layers by number of blocks, or final [the target and final]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub layers: Option<Vec<Layer>>,
    /// Folder with xquad.LANG.json files, scored before and after [default: built in, with the built-in model]
    #[arg(long, value_name = "DIR")]
    pub xquad: Option<PathBuf>,
    /// Languages to score, e.g. en,ro [default: all in the folder]
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "xquad")]
    pub languages: Option<Vec<String>>,
    /// Adapter to start from (a PEFT folder), instead of a fresh one
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// New folder for the run [default: the next number under runs/]
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub output: Option<PathBuf>,
    /// auto, cpu or cuda [auto]
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceChoice>,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    pub compute: Option<Compute>,
    /// Print the plan and its memory, and stop
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    #[command(flatten)]
    #[serde(skip)]
    pub keeping: Keeping,
    /// Stop after so many steps, without scoring: to compare losses with another program
    #[arg(long, value_name = "N", hide = true)]
    #[serde(skip)]
    pub stop_after: Option<usize>,
}

/// What is kept of a run while it goes on. It changes no result, and may differ when a run is resumed.
#[derive(Args, Clone, Default)]
pub struct Keeping {
    /// Go on with the run in this folder, where it was last saved; start it where there is none
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub resume: Option<PathBuf>,
    /// Save a checkpoint every so many steps (100), or minutes (10m); off saves none [10m]
    #[arg(long, value_name = "N|MINUTES")]
    pub save_every: Option<SaveEvery>,
    /// Checkpoints that are kept, the last ones [2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub keep_checkpoints: Option<u16>,
    /// Leave out up to so many steps whose loss or gradient is not finite [0: the first ends the run]
    #[arg(long, value_name = "N")]
    pub skip_nonfinite: Option<u32>,
}

/// When a checkpoint is saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SaveEvery {
    /// After so many steps.
    Steps(usize),
    /// After so many minutes.
    Minutes(f64),
    /// Never.
    Off,
}

impl Default for SaveEvery {
    fn default() -> SaveEvery {
        SaveEvery::Minutes(10.0)
    }
}

impl std::str::FromStr for SaveEvery {
    type Err = String;

    fn from_str(s: &str) -> Result<SaveEvery, String> {
        let wrong = || format!("{s:?} is no interval: give steps (100), minutes (10m), or off");
        match s.strip_suffix('m') {
            _ if s == "off" => Ok(SaveEvery::Off),
            Some(minutes) => {
                let minutes = minutes.parse().ok().filter(|m: &f64| m.is_finite() && *m > 0.0);
                minutes.map(SaveEvery::Minutes).ok_or_else(wrong)
            }
            None => s.parse().ok().filter(|&n| n > 0).map(SaveEvery::Steps).ok_or_else(wrong),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  kiungo train
  kiungo train --model Llama-3.1-8B --pairs words.tsv --base nf4 --xquad xquad --languages en,ro
  kiungo train --model Llama-3.1-8B --pairs words.tsv --method full --target final
  kiungo train --model Llama-3.1-8B --pairs words.tsv --preset paper
  kiungo train --model Llama-3.1-8B --pairs words.tsv --blocks cka:8 --target final
  kiungo train --resume runs/0001";

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}
crate::words::words! { Switch: "switch" { On = "on", Off = "off" } }

/// Blocks as a user writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Every block.
    All,
    /// These.
    Some(Vec<usize>),
    /// So many, the most important ones.
    Cka(usize),
}

impl std::fmt::Display for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Blocks::All => f.write_str("all"),
            Blocks::Cka(count) => write!(f, "cka:{count}"),
            Blocks::Some(blocks) => f.write_str(&blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl std::str::FromStr for Blocks {
    type Err = String;

    fn from_str(s: &str) -> Result<Blocks, String> {
        let wrong = || {
            format!(
                "{s:?} is no set of blocks: give a half-open range (0..2 is blocks 0 and 1), a list (0,3), all, or cka:N"
            )
        };
        let number = |s: &str| s.trim().parse::<usize>().map_err(|_| wrong());
        if s == "all" {
            return Ok(Blocks::All);
        }
        if let Some(count) = s.strip_prefix("cka:") {
            return count.parse().ok().filter(|&n| n > 0).map(Blocks::Cka).ok_or_else(wrong);
        }
        let mut blocks = match s.split_once("..") {
            Some((from, to)) => (number(from)?..number(to)?).collect::<Vec<_>>(),
            None => s.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
        };
        blocks.sort_unstable();
        blocks.dedup();
        if blocks.is_empty() { Err(wrong()) } else { Ok(Blocks::Some(blocks)) }
    }
}

impl Train {
    /// The same with paths that do not depend on the folder that the program was started in.
    pub fn absolute(mut self) -> std::io::Result<Train> {
        let Train { tokenizer, pairs, dev, control, xquad, init, .. } = &mut self;
        for path in [tokenizer, pairs, dev, control, xquad, init].into_iter().flatten() {
            *path = std::path::absolute(&path)?;
        }
        self.model = self.model.map(Source::absolute).transpose()?;
        Ok(self)
    }

    /// The preset with what the user changed.
    pub fn settings(&self, config: &Config) -> Result<Settings, String> {
        let preset = self.preset.unwrap_or(Preset::Clean);
        let mut s = Settings::preset(preset, self.method.unwrap_or(Method::Lora), config);
        fn set<T: Clone>(field: &mut T, given: &Option<T>) {
            if let Some(value) = given {
                *field = value.clone();
            }
        }
        set(&mut s.base, &self.base);
        set(&mut s.target, &self.target);
        set(&mut s.rank, &self.rank);
        set(&mut s.alpha, &self.alpha);
        set(&mut s.dropout, &self.dropout);
        set(&mut s.projections, &self.projections);
        set(&mut s.loss, &self.loss);
        set(&mut s.temperature, &self.temperature);
        set(&mut s.margin, &self.margin);
        set(&mut s.direction, &self.direction);
        if self.model.is_none() && preset == Preset::Clean {
            s.epochs = builtin::EPOCHS;
        }
        set(&mut s.epochs, &self.epochs);
        set(&mut s.batch, &self.batch);
        set(&mut s.learning_rate, &self.lr);
        set(&mut s.warmup, &self.warmup);
        set(&mut s.weight_decay, &self.weight_decay);
        set(&mut s.schedule, &self.schedule);
        set(&mut s.training_pooling, &self.pooling);
        set(&mut s.pooling, &self.pooling);
        set(&mut s.bos, &self.bos);
        set(&mut s.max_length, &self.max_length);
        s.chunk = self.chunk.or(s.chunk);
        set(&mut s.dequantize, &self.dequantize);
        set(&mut s.moments, &self.moments);
        set(&mut s.master, &self.master);
        set(&mut s.update, &self.update);
        set(&mut s.keep, &self.keep);
        s.clip = self.clip.or(s.clip);
        set(&mut s.seed, &self.seed);
        s.shuffle = self.shuffle != Some(Switch::Off);
        match &self.blocks {
            Some(Blocks::All) => s.blocks = (0..config.layers).collect(),
            Some(Blocks::Some(blocks)) => s.blocks = blocks.clone(),
            // Which they are is known when the model has read the pairs.
            Some(Blocks::Cka(_)) => s.blocks = vec![0],
            None => {}
        }
        check(&s)?;
        if self.keeping.skip_nonfinite.is_some_and(|n| n > 0) && s.update == When::AtOnce && s.clip.is_none() {
            return Err("--skip-nonfinite cannot leave out a step of --update at-once, whose weights learn before the whole gradient is known; add --clip".into());
        }
        Ok(s)
    }
}

/// Values that no run can use.
fn check(s: &Settings) -> Result<(), String> {
    let positive: [(&str, f64); 3] =
        [("--temperature", s.temperature.into()), ("--alpha", s.alpha.into()), ("--lr", s.learning_rate)];
    for (name, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return Err(format!("{name} {value}: expected a number above 0"));
        }
    }
    let not_negative: [(&str, f64); 3] = [
        ("--margin", f64::from(s.margin)),
        ("--weight-decay", s.weight_decay),
        ("--clip", s.clip.unwrap_or(1.0).into()),
    ];
    for (name, value) in not_negative {
        if !(value.is_finite() && value >= 0.0) {
            return Err(format!("{name} {value}: expected a number that is not negative"));
        }
    }
    if !(0.0..1.0).contains(&s.dropout) {
        return Err(format!("--dropout {}: expected a share from 0 up to, but not including, 1", s.dropout));
    }
    let counts = [
        ("--epochs", s.epochs, 1),
        ("--batch", s.batch, 2),
        ("--chunk", s.chunk.unwrap_or(1), 1),
        ("--max-length", s.max_length, 1),
    ];
    for (name, value, least) in counts {
        if value < least {
            return Err(format!("{name} {value}: expected at least {least}"));
        }
    }
    Ok(())
}
