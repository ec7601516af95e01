//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors` in a folder.
//!
//! PEFT loads what is written here, and what PEFT writes is read here, unless it uses a variant of LoRA that would
//! change the arithmetic: those are refused by name.

mod config;
mod targets;

pub use config::AdapterConfig;

use super::output::{self, OutputError};
use super::safetensors::{Checkpoint, CheckpointError, TensorLayout, write_safetensors};
use crate::device::{DType, Device, DeviceError, Tensor};
use crate::llama::adapters::{Adapters, BlockAdapters, Lora};
use crate::llama::config::{Config, Projection};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use targets::Targets;

/// Name of the settings' file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weights' file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The two factors of one linear layer: `delta W = scale * B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// `[rank, in]`, row-major.
    pub a: Vec<f32>,
    /// `[out, rank]`, row-major.
    pub b: Vec<f32>,
}

/// An adapter: its settings, and its factors by block and projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rank, scale, and what it belongs to.
    pub config: AdapterConfig,
    /// What is adapted.
    pub factors: BTreeMap<(usize, Projection), Factors>,
}

/// Why an adapter cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// A file cannot be read.
    #[error("{}: {source}; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The weights are in a pickle.
    #[error(
        "{}: a pickle, which can run code when it is read: load it where you trust it and save it again with PEFT's \
         model.save_pretrained(folder)",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// The settings are not what PEFT writes.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A setting asks for something that is not implemented.
    #[error("{}: {setting} is {found}: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value.
        found: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The weights hold something else than the factors that the settings announce.
    #[error("{}: {message}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is missing or too much.
        message: String,
    },
    /// The factors do not fit the base model.
    #[error("{}: {message}; the adapter belongs to another base ({base})", path.display())]
    OtherBase {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        message: String,
        /// The base that the adapter names.
        base: String,
    },
    /// The weights' file is damaged, or cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The settings' file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Adapter {
    /// The factors as tensors on a device.
    pub fn on_device(&self, device: &Device) -> Result<Adapters, DeviceError> {
        let rank = self.config.rank;
        let mut blocks: BTreeMap<usize, BlockAdapters> = BTreeMap::new();
        for (&(block, projection), factors) in &self.factors {
            let lora = Lora {
                a: Tensor::from_slice(device, &factors.a, &[rank, factors.a.len() / rank])?,
                b: Tensor::from_slice(device, &factors.b, &[factors.b.len() / rank, rank])?,
            };
            blocks.entry(block).or_default()[projection] = Some(lora);
        }
        Ok(Adapters { rank, scale: self.config.scale(), blocks })
    }

    /// Reads the adapter in a folder, for a base model of the sizes in `base`.
    pub fn open(folder: &Path, base: &Config) -> Result<Adapter, PeftError> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| PeftError::Read { path: path.clone(), source })?;
        let (config, targets) = config::parse(&path, &text)?;
        let weights = folder.join(WEIGHTS_FILE);
        let pickle = folder.join("adapter_model.bin");
        if !weights.exists() && pickle.exists() {
            return Err(PeftError::Pickle { path: pickle });
        }
        let reader = Reader { checkpoint: &Checkpoint::open_file(&weights)?, path: &weights, config: &config, base };
        let factors = reader.factors(&targets, &path)?;
        Ok(Adapter { config, factors })
    }

    /// Writes the adapter into a folder that exists: the weights, then the settings, so that a folder with settings is
    /// whole.
    pub fn write(&self, folder: &Path) -> Result<(), PeftError> {
        let rank = self.config.rank.max(1);
        let mut layout = Vec::new();
        let mut values: BTreeMap<String, &[f32]> = BTreeMap::new();
        for (&(block, projection), Factors { a, b }) in &self.factors {
            for (factor, shape, data) in [("A", [rank, a.len() / rank], a), ("B", [b.len() / rank, rank], b)] {
                let name = format!("base_model.model.{}.lora_{factor}.weight", targets::module(block, projection));
                layout.push(TensorLayout::new(&name, DType::F32, &shape));
                values.insert(name, data);
            }
        }
        let metadata = BTreeMap::from([("format".into(), "pt".into())]);
        write_safetensors(&folder.join(WEIGHTS_FILE), &layout, &metadata, |tensor| {
            Ok::<_, CheckpointError>(Cow::Borrowed(bytemuck::cast_slice(values[&tensor.name])))
        })?;
        let adapted: Vec<(usize, Projection)> = self.factors.keys().copied().collect();
        output::write_file(&folder.join(CONFIG_FILE), self.config.to_json(&adapted))?;
        Ok(())
    }
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    path: &'a Path,
    config: &'a AdapterConfig,
    base: &'a Config,
}

impl Reader<'_> {
    fn error(&self, message: String) -> PeftError {
        PeftError::Weights { path: self.path.into(), message }
    }

    /// All factors; the settings must announce each of them, and no other.
    fn factors(&self, targets: &Targets, config: &Path) -> Result<BTreeMap<(usize, Projection), Factors>, PeftError> {
        let mut prefixes = BTreeMap::new();
        for (name, _) in self.checkpoint.tensors() {
            let (prefix, block, projection) = parse_name(name).ok_or_else(|| {
                self.error(format!("{name} is no LoRA factor of a Llama's linear layers; it is not implemented"))
            })?;
            prefixes.insert((block, projection), prefix);
        }
        self.check_blocks(prefixes.keys().map(|(block, _)| *block).max())?;
        let failed = |message| PeftError::Config { path: config.into(), message };
        let announced = targets.matching(self.base.layers).map_err(failed)?;
        let found: BTreeSet<_> = prefixes.keys().copied().collect();
        if let Some(&(block, projection)) = announced.difference(&found).next() {
            let module = targets::module(block, projection);
            return Err(self.error(format!("no factors for {module}, which {CONFIG_FILE} targets")));
        }
        if let Some(&(block, projection)) = found.difference(&announced).next() {
            let module = targets::module(block, projection);
            return Err(self.error(format!("factors for {module}, which {CONFIG_FILE} does not target")));
        }
        let read = |((block, projection), prefix)| {
            let factors = self.read(prefix, block, projection)?;
            Ok(((block, projection), factors))
        };
        prefixes.into_iter().map(read).collect()
    }

    fn read(&self, prefix: &str, block: usize, projection: Projection) -> Result<Factors, PeftError> {
        let [out, input] = self.base.shape(projection);
        let rank = self.config.rank;
        let factor = |factor: &str, shape: [usize; 2]| {
            let name = format!("{prefix}{block}.{}.lora_{factor}.weight", projection.path());
            if !self.checkpoint.contains(&name) {
                return Err(self.error(format!("no tensor {name}, the other factor is there")));
            }
            let found = &self.checkpoint.tensor(&name)?.shape;
            if *found != shape {
                return Err(self.other_base(format!("{name} has shape {found:?}, expected {shape:?}")));
            }
            Ok(self.checkpoint.read_f32(&name)?)
        };
        Ok(Factors { a: factor("A", [rank, input])?, b: factor("B", [out, rank])? })
    }

    fn check_blocks(&self, last: Option<usize>) -> Result<(), PeftError> {
        match last {
            None => Err(self.error("no LoRA factors".into())),
            Some(last) if last >= self.base.layers => {
                Err(self.other_base(format!("factors for block {last}, but the base has {} blocks", self.base.layers)))
            }
            Some(_) => Ok(()),
        }
    }

    fn other_base(&self, message: String) -> PeftError {
        let base = self.config.base_model.clone().unwrap_or_else(|| "unnamed".into());
        PeftError::OtherBase { path: self.path.into(), message, base }
    }
}

/// What comes before the block's number, the number, and the projection. The first prefix is that of a model with a
/// head, the second that of a bare `LlamaModel`.
fn parse_name(name: &str) -> Option<(&'static str, usize, Projection)> {
    let prefixes = ["base_model.model.model.layers.", "base_model.model.layers."];
    let (prefix, rest) = prefixes.into_iter().find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)))?;
    let (block, rest) = rest.split_once('.')?;
    let path = rest.strip_suffix(".lora_A.weight").or_else(|| rest.strip_suffix(".lora_B.weight"))?;
    let projection = Projection::ALL.into_iter().find(|p| p.path() == path)?;
    Some((prefix, block.parse().ok()?, projection))
}
