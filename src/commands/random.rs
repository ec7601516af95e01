//! `kiungo random`: a checkpoint of random weights, to measure with.

use super::common::{self, DeviceChoice};
use super::model::RandomModel;
use crate::formats::output;
use crate::formats::random::{Options, write};
use crate::formats::tokenizer;
use crate::llama::model::names;
use crate::ops::convert::Stored;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Write a checkpoint of random weights, for benchmarks alone
///
/// The folder is laid out as Hugging Face's, in files of up to --shard-gb each; it knows nothing. The same seed gives the
/// same values as --model random:NAME.
#[derive(Args)]
pub struct Random {
    /// llama-3-8b, or the config.json of a Llama
    #[arg(long, value_name = "NAME|FILE")]
    model: RandomModel,
    /// New folder for the checkpoint
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Element type: bf16, f16 or f32
    #[arg(long, value_name = "NAME", default_value_t = Stored::Bf16)]
    dtype: Stored,
    /// Largest file, GB
    #[arg(long, value_name = "X", default_value_t = 5.0)]
    shard_gb: f64,
    /// Folder of a model whose tokenizer is copied
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

impl Random {
    pub fn run(self) -> Result<()> {
        output::check_new(&self.output)?;
        let device = common::open_device(self.device)?;
        let RandomModel { config, seed, .. } = &self.model;
        let values: usize = names::all(config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let total = values * self.dtype.size();
        let bar = common::progress(total, "writing");
        let shard_bytes = (self.shard_gb * 1e9) as usize;
        let options = Options { seed: *seed, stored: self.dtype, shard_bytes, device: &device };
        write(&self.output, config, options, |bytes| bar.inc(bytes as u64))?;
        bar.finish_and_clear();
        if let Some(from) = &self.tokenizer {
            tokenizer::copy(from, &self.output)?;
        }
        let (bytes, folder) = (common::bytes(total), self.output.display());
        println!("{bytes} of random weights in {folder}: they know nothing, and serve benchmarks alone");
        Ok(())
    }
}
