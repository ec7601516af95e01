//! `kiungo merge-adapters`: several adapters of one base made into one.

use super::model::Source;
use crate::formats::kiungo_json::Record;
use crate::formats::output::{self, NewFolder};
use crate::formats::peft::Adapter;
use crate::training::aggregate::{Aggregate, Method, aggregate};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Make one adapter of several that were trained on the same base
///
/// Adapters of equal rank in the same layers, trained on other pairs, in other places, or from other seeds, become one of
/// the same size. Together they mean the average of their products B A, which the product of the averaged factors misses:
/// how far is printed. --method lora-fair (arXiv 2411.14961) keeps the average of A and corrects that of B, here in closed
/// form, so that the product comes as near as that A allows. Adapters from different starting points (seeds) have an average
/// near zero, which no correction makes good: start them from one, with kiungo train --init.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct MergeAdapters {
    /// Folders of adapters in PEFT's layout, two or more
    #[arg(value_name = "DIR", required = true, num_args = 2..)]
    adapters: Vec<PathBuf>,
    /// The base that they were trained on, by its folder or its name on the hub: its config.json alone is read
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// New folder for the adapter
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// average, of each factor, or lora-fair, corrected
    #[arg(long, value_name = "NAME", default_value_t = Method::LoraFair)]
    method: Method,
    /// What each counts, such as its number of pairs [default: all the same]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    weights: Option<Vec<f64>>,
    /// What keeps lora-fair's correction small: the penalty on its square
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    lambda: f64,
}

const EXAMPLES: &str = "\
Examples:
  kiungo merge-adapters runs/0001/adapter runs/0002/adapter --model Llama-3.1-8B --output both
  kiungo merge-adapters sw ro vi --weights 623,623,400 --method average --model Llama-3.1-8B --output three";

impl MergeAdapters {
    pub fn run(self) -> Result<()> {
        output::check_new(&self.output)?;
        let base = self.model.open()?;
        let read = |folder: &PathBuf| Adapter::open(folder, &base.config);
        let adapters = self.adapters.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let record = self.record()?;
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; adapters.len()]);
        let merged = aggregate(&adapters, &weights, self.method, self.lambda);
        let Aggregate { adapter, residuals: [average, kept] } = merged.with_context(|| self.names())?;
        let new = NewFolder::create(&self.output)?;
        adapter.write(new.path())?;
        record.map(|record| record.write(new.path())).transpose()?;
        new.commit()?;
        println!("residual |dW - B A| / |dW|, over all layers:");
        println!("  average    {average:.4}");
        if self.method == Method::LoraFair {
            println!("  lora-fair  {kept:.4}");
        }
        println!("{} adapters in one: {}", adapters.len(), self.output.display());
        Ok(())
    }

    /// The first adapter's record, if all were trained on its base.
    fn record(&self) -> Result<Option<Record>> {
        let records = self.adapters.iter().map(|folder| Record::open_if_present(folder));
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let mut known =
            self.adapters.iter().zip(&records).filter_map(|(folder, record)| Some((folder, record.as_ref()?)));
        let Some((first_folder, first)) = known.next() else { return Ok(None) };
        for (folder, record) in known {
            let same = record.base_identity.is_of(&first.base_identity);
            let (folder, first_folder) = (folder.display(), first_folder.display());
            ensure!(same, "{folder} was trained on another base than {first_folder}; adapters of one base are needed");
            if record.target != first.target || record.pooling != first.pooling {
                eprintln!(
                    "note: {folder} was trained for {} at {}, {first_folder} for {} at {}; the latter is recorded",
                    record.pooling, record.target, first.pooling, first.target
                );
            }
        }
        Ok(Some(first.clone()))
    }

    fn names(&self) -> String {
        self.adapters.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}
