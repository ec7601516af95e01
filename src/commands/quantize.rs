//! `kiungo quantize`: a model to NF4, as transformers and bitsandbytes store it.

use super::common::{self, DeviceChoice};
use super::model::Source;
use super::plan;
use crate::device::DType;
use crate::formats::nf4::write_model;
use crate::formats::output;
use crate::formats::weights::{Options, Transfer, load};
use crate::llama::Parts;
use crate::llama::model::{Base, names};
use crate::llama::plan::{During, Ledger};
use anyhow::{Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Quantise a model to NF4, as transformers and bitsandbytes store it
///
/// The blocks' linear weights become 4-bit, bit for bit what bitsandbytes makes of them on CUDA; embedding, norms and head
/// become bf16. The folder loads in transformers, and here.
#[derive(Args)]
pub struct Quantize {
    /// Folder of a Llama in Hugging Face's layout, or its name on the hub (org/name, org/name@revision)
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// New folder for the quantised model
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Quantise the scales too, to 8 bits
    #[arg(long)]
    double: bool,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

impl Quantize {
    pub fn run(self) -> Result<()> {
        output::check_new(&self.output)?;
        let files = self.model.open()?;
        let config = &files.config;
        ensure!(config.quantization.is_none(), "{files}: quantised already");
        let checkpoint = files.whole()?;
        let device = common::open_device(self.device)?;
        let parts = Parts { blocks: config.layers, final_norm: true, head: true };
        let base = if self.double { Base::Nf4Double } else { Base::Nf4 };
        let mut ledger = Ledger::of_model(config, parts, base, 1);
        let reading = Transfer::default().device_bytes(&checkpoint, config, parts, base);
        ledger.add("buffers of the reader", reading, During::Loading);
        plan::fit(&ledger, &device, Vec::new)?;
        let options = Options { parts, base, compute: DType::Bf16, device: &device, positions: 1 };
        let bar = common::progress(checkpoint.tensors().count(), "quantising");
        let model = load(&checkpoint, config, options, |_| bar.inc(1))?;
        bar.finish_and_clear();
        write_model(&self.output, &model, &checkpoint, self.double)?;
        let (stored, bytes) = (checkpoint.tensors().map(|(_, t)| t.bytes()).sum(), model.bytes());
        println!("{} to {} in {}", common::bytes(stored), common::bytes(bytes), self.output.display());
        for (name, _) in checkpoint.tensors().filter(|(name, _)| !names::is_weight(name)) {
            eprintln!("note: {name} is no weight of a Llama, and was left out");
        }
        Ok(())
    }
}
