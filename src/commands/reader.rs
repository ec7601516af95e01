//! The model that reads texts, for the commands that embed them: its arguments, and what they come to.

use super::common::{self, Compute, DeviceChoice};
use super::inputs;
use super::model::{ModelFiles, Source};
use super::plan;
use crate::device::{DType, Device};
use crate::formats::kiungo_json::{self, Record};
use crate::formats::peft;
use crate::formats::safetensors::Checkpoint;
use crate::formats::tokenizer::{Bos, Encoding, Tokenizer};
use crate::formats::weights::{Options, Transfer};
use crate::llama::adapters::Adapters;
use crate::llama::config::Config;
use crate::llama::model::{Base, Model};
use crate::llama::plan::{During, Ledger, Way};
use crate::llama::{Layer, Parts, random};
use crate::ops::pooling::Pooling;
use crate::retrieval::embed::{self, Reading};
use anyhow::{Result, anyhow};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// A model, with or without an adapter, and how it reads. Defaults come from the kiungo.json beside the weights.
#[derive(Args, Clone)]
pub struct ReaderArgs {
    /// Folder of a Llama in Hugging Face's layout, its name on the hub (org/name, org/name@revision), of which only the
    /// files that are needed are fetched, or random:llama-3-8b (weights that know nothing, for benchmarks)
    #[arg(long, value_name = "DIR|NAME")]
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
    /// mean, mean-no-sink or last, or several [default: the adapter's, else mean-no-sink]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pooling: Option<Vec<Pooling>>,
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
    /// Print what would be read and held, and stop
    #[arg(long)]
    dry_run: bool,
}

/// What the arguments come to, before weights are read.
pub struct Reader {
    args: ReaderArgs,
    files: ModelFiles,
    record: Option<Record>,
    base: Base,
    tokenizer: Tokenizer,
    pub config: Config,
    pub layers: Vec<Layer>,
    pub poolings: Vec<Pooling>,
    pub bos: Bos,
    pub max_length: usize,
}

impl ReaderArgs {
    pub fn resolve(self) -> Result<Reader> {
        let files = self.model.open()?;
        let config = files.config.clone();
        let recorded_in = self.adapter.as_deref().or(files.folder());
        let record = recorded_in.map(Record::open_if_present).transpose()?.flatten();
        let known = record.as_ref();
        let stored = recorded(known, |r| &r.base)?.or(config.quantization.as_ref().map(Base::stored));
        let target: Option<Layer> = recorded(known, |r| &r.target)?;
        let layers = self.layers.clone().unwrap_or_else(|| target.into_iter().chain([Layer::Final]).collect());
        inputs::check_layers(&layers, &config)?;
        Ok(Reader {
            base: choose("--base", self.base, stored, Base::Bf16),
            poolings: match &self.pooling {
                Some(several) if several.len() > 1 => several.clone(),
                one => {
                    let given = one.as_ref().and_then(|one| one.first().copied());
                    vec![choose("--pooling", given, recorded(known, |r| &r.pooling)?, Pooling::MeanNoSink)]
                }
            },
            bos: choose("--bos", self.bos, known.map(|r| r.bos), Bos::Add),
            max_length: choose("--max-length", self.max_length, known.map(|r| r.max_length), config.max_positions),
            tokenizer: files.tokenizer(self.tokenizer.as_deref())?,
            files,
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

    /// Every layer under every pooling.
    pub fn readings(&self) -> Vec<Reading> {
        let of_layer = |&layer: &Layer| self.poolings.iter().map(move |&pooling| Reading { layer, pooling });
        self.layers.iter().flat_map(of_layer).collect()
    }

    /// Opens the device.
    pub fn device(&self) -> Result<Device> {
        Ok(common::open_device(self.args.device)?)
    }

    /// What decides a text's vectors, beside the text and the reading.
    pub fn made_with(&self, device: &Device) -> Result<BTreeMap<String, String>> {
        let checkpoint = self.files.checkpoint(parts(&self.layers, &self.config))?;
        let model = self.files.identity(checkpoint.as_ref())?;
        let adapter = match &self.args.adapter {
            Some(folder) => Checkpoint::open_file(&folder.join(peft::WEIGHTS_FILE))?.identity()?,
            None => "none".into(),
        };
        let compute = Compute::or_default(self.args.compute, device);
        let entries = [
            ("model_weights", model.weights_in_short()),
            ("model_settings", model.config),
            ("adapter", adapter),
            ("base", self.base.to_string()),
            ("compute", format!("{compute:?}").to_lowercase()),
            ("bos", self.bos.to_string()),
            ("max_length", self.max_length.to_string()),
        ];
        Ok(entries.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
    }

    /// Says what is read and held, and reads as much of the model as the layers need to embed `texts`, a list at a time.
    /// None for a dry run, which ends here; an error where there is no room.
    pub fn open(&self, device: &Device, texts: &[Vec<&[u32]>]) -> Result<Option<Opened>> {
        let compute = Compute::or_default(self.args.compute, device);
        let parts = parts(&self.layers, &self.config);
        let checkpoint = match self.args.dry_run {
            true => self.files.checkpoint_here(parts)?,
            false => self.files.checkpoint(parts)?,
        };
        let held = Held { reader: self, checkpoint: checkpoint.as_ref(), device, compute, texts };
        let ledger = held.ledger(self.base, &self.layers);
        if self.args.dry_run {
            if let Some(checkpoint) = &checkpoint {
                println!("{}", plan::reads(checkpoint, parts));
            }
            println!("{}", plan::table(&ledger, device));
        }
        plan::fit(&ledger, device, || held.ways())?;
        if self.args.dry_run {
            return Ok(None);
        }
        let positions = held.positions();
        let options = Options { parts, base: self.base, compute, device, positions };
        let bar = common::progress(1 + parts.blocks * 9, "loading");
        let model = self.files.load(checkpoint.as_ref(), options, |_| bar.inc(1))?;
        bar.finish_and_clear();
        let adapters = self.adapters(checkpoint.as_ref(), device)?;
        Ok(Some(Opened { model, adapters, ledger }))
    }

    fn adapters(&self, checkpoint: Option<&Checkpoint>, device: &Device) -> Result<Option<Adapters>> {
        let Some(folder) = &self.args.adapter else { return Ok(None) };
        if let (Some(record), Some(checkpoint)) = (&self.record, checkpoint) {
            record.check_base(checkpoint, folder)?;
        }
        inputs::adapters(folder, &self.config, device).map(Some)
    }
}

/// A model that was read.
pub struct Opened {
    pub model: Model,
    pub adapters: Option<Adapters>,
    ledger: Ledger,
}

impl Opened {
    /// Says what memory it took, where the device counts.
    pub fn say_peak(&self) {
        plan::say_peak(&self.ledger, &self.model.device);
    }
}

fn parts(layers: &[Layer], config: &Config) -> Parts {
    Parts {
        blocks: layers.iter().map(|l| l.blocks(config)).max().unwrap_or(0),
        final_norm: layers.contains(&Layer::Final),
        head: false,
    }
}

/// What reading texts will hold.
struct Held<'a> {
    reader: &'a Reader,
    checkpoint: Option<&'a Checkpoint>,
    device: &'a Device,
    compute: DType,
    texts: &'a [Vec<&'a [u32]>],
}

impl Held<'_> {
    /// The longest text, tokens.
    fn positions(&self) -> usize {
        self.texts.iter().flatten().map(|t| t.len()).max().unwrap_or(1)
    }

    fn ledger(&self, base: Base, layers: &[Layer]) -> Ledger {
        let Held { checkpoint, device, compute, texts, .. } = *self;
        let Reader { config, poolings, .. } = self.reader;
        let poolings = poolings.len();
        let parts = parts(layers, config);
        let mut ledger = Ledger::of_model(config, parts, base, self.positions());
        let (what, reading) = match checkpoint {
            None => ("a weight that is drawn", random::device_bytes(config, base)),
            Some(_) if device.is_cpu() => ("", 0),
            Some(checkpoint) => {
                ("buffers of the reader", Transfer::default().device_bytes(checkpoint, config, parts, base))
            }
        };
        if reading > 0 {
            ledger.add(what, reading, During::Loading);
        }
        // An adapter's rank is in its files; what it takes here is a fraction of a percent.
        let of = |texts: &Vec<&[u32]>| embed::memory(config, compute, 0, device, texts, layers.len() * poolings);
        let largest = texts.iter().map(of).max_by_key(|uses| uses.iter().map(|(_, bytes)| bytes).sum::<usize>());
        for (what, bytes) in largest.into_iter().flatten() {
            ledger.add(what, bytes, During::Running);
        }
        ledger
    }

    /// Runs that hold less, the one that gives up least first.
    fn ways(&self) -> Vec<Way> {
        let Reader { base, layers, config, .. } = self.reader;
        let way = |change: String, base, layers: &[Layer]| Way { change, peak: self.ledger(base, layers).peak() };
        let finer = [Base::Bf16, Base::Nf4, Base::Nf4Double].into_iter().skip_while(|other| match base {
            Base::F32 => false,
            Base::Bf16 => *other != Base::Nf4,
            Base::Nf4 | Base::Nf4Double => *other != Base::Nf4Double,
        });
        let stored = config.quantization.is_some();
        let mut ways: Vec<Way> = finer
            .filter(|other| !stored && other != base)
            .map(|base| way(format!("--base {base}"), base, layers))
            .collect();
        let top = parts(layers, config).blocks;
        ways.extend((0..top).rev().map(|l| way(format!("--layers {l}"), *base, &[Layer::Hidden(l)])));
        ways
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
