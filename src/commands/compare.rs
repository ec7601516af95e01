//! `kiungo compare`: ways of training beside each other, over several seeds, and what follows.

mod folder;
mod lab;
mod worker;

pub use folder::Folder;

use super::common::{self, Compute, DeviceChoice};
use super::model::Source;
use crate::device::Device;
use crate::formats::output;
use crate::llama::model::Base;
use crate::training::arms::Arm;
use crate::training::settings::Settings;
use anyhow::{Result, ensure};
use clap::Args;
use folder::Asked;
use lab::Lab;
use serde_json::{Value, json};
use std::path::PathBuf;
use worker::{Worker, each};

/// Set ways of training beside each other over several seeds, and say which retrieves better and how sure that is
///
/// Every arm learns from the same pairs, in the same order and as often, from the same base; its learning rate is chosen on
/// the development pairs, from as many rates as any other's. A comparison that was interrupted goes on where it stopped when
/// the same command is given again.
#[derive(Args)]
pub struct Compare {
    /// Folder of a Llama in Hugging Face's layout, or its name on the hub (org/name, org/name@revision)
    #[arg(long, value_name = "DIR|NAME")]
    model: Source,
    /// Pairs to learn from: .tsv, .csv or .jsonl, source then target
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Pairs to choose learning rates by [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    /// Pairs to read once, at the end [default: a tenth of the pairs]
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// A data set to score (see eval); may be given several times. The primary endpoint is on the first
    #[arg(long, alias = "xquad", value_name = "PATH", required = true)]
    data: Vec<PathBuf>,
    /// Languages to score, in the data sets that have them [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    languages: Option<Vec<String>>,
    /// A data set whose English passages make the search harder, as a setting of its own
    #[arg(long, value_name = "PATH")]
    distractors: Option<PathBuf>,
    /// lora@2, full-blocks@2, full@2, lora-all@final, lora-early@final, full@final; and paper, shuffled, lora-nf4@2 and
    /// cka:N, adapters in the N blocks that change most [default: the first six]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    arms: Option<Vec<Arm>>,
    /// Seeds, from 0
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Learning rates to try, as multiples of the preset's
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0.1,0.3,1,3,10,30")]
    rates: Vec<f64>,
    /// Times that each pair is seen [20; paper: 5]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Pairs a step [64; paper: 8]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How the weights of all arms but lora-nf4@2 are held: bf16 or f32
    #[arg(long, value_name = "NAME", default_value_t = Base::Bf16)]
    base: Base,
    /// Longest text, tokens [the model's own]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// A text, in lines, whose perplexity shows what is forgotten
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Trainings at once, each on a stream of the GPU: small models leave it idle. Results are the same, seconds are longer
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Folder of the comparison
    #[arg(long, value_name = "DIR", default_value = "runs/compare")]
    output: PathBuf,
    /// auto, cpu or cuda
    #[arg(long, value_name = "NAME", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Precision of activations: f32 or bf16 [f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "NAME")]
    compute: Option<Compute>,
}

impl Compare {
    pub fn run(self) -> Result<()> {
        ensure!(self.seeds > 0, "--seeds 0: at least one is needed");
        ensure!(self.jobs > 0, "--jobs 0: at least one is needed");
        ensure!(
            !self.rates.is_empty() && self.rates.iter().all(|r| r.is_finite() && *r > 0.0),
            "--rates: expected numbers above 0"
        );
        let arms = self.arms.clone().unwrap_or_else(|| Arm::USUAL.to_vec());
        let lab = Lab::open(self)?;
        let notes = lab.notes();
        notes.iter().for_each(|note| println!("note: {note}"));
        lab.folder.begin(&lab.record()?)?;
        let asked = Asked {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            arms: arms.clone(),
            seeds: lab.args.seeds,
            data: lab.sets[0].0.collection.name.clone(),
            notes,
        };
        output::write_file(&lab.folder.path("asked.json"), serde_json::to_string_pretty(&asked)?)?;

        let mut workers = (0..lab.args.jobs).map(|_| Worker::new(&lab)).collect::<Result<Vec<_>>>()?;
        let settings = arms.iter().map(|&arm| Ok((arm, workers[0].settings(arm)?)));
        let settings: Vec<(Arm, Settings)> = settings.collect::<Result<_>>()?;
        let mut bases: Vec<Base> = settings.iter().map(|(_, s)| s.base).collect();
        bases.sort_by_key(|base| base.to_string());
        bases.dedup();
        let first = settings.first().map(|(_, settings)| settings.base);
        each(&mut workers, &bases, |worker, &base| worker.base(base, Some(base) == first))?;

        let mut tried = vec![];
        for (arm, settings) in &settings {
            let at = |learning_rate| (*arm, Settings { learning_rate, ..settings.clone() });
            tried.extend(lab.rates(settings).into_iter().map(at));
        }
        each(&mut workers, &tried, |worker, (arm, settings)| worker.try_rate(*arm, settings))?;

        let chosen = |(arm, settings): &(Arm, Settings)| {
            Ok((*arm, Settings { learning_rate: lab.chosen_rate(*arm, settings)?, ..settings.clone() }))
        };
        let chosen: Vec<(Arm, Settings)> = settings.iter().map(chosen).collect::<Result<_>>()?;
        // Seed after seed, so that what is interrupted has as many of every arm.
        let of_seed = |seed| chosen.iter().map(move |(arm, settings)| (*arm, Settings { seed, ..settings.clone() }));
        let runs: Vec<(Arm, Settings)> = (0..lab.args.seeds).flat_map(of_seed).collect();
        each(&mut workers, &runs, |worker, (arm, settings)| worker.seed(*arm, settings))?;
        let report = lab.folder.conclude()?;
        println!("{}\nfolder: {}", report.to_text(), lab.folder.0.display());
        Ok(())
    }

    /// What decides the results: a folder goes on only with the same.
    fn record(&self, device: &Device) -> Result<Value> {
        let path = |p: &PathBuf| p.display().to_string();
        let optional = |p: &Option<PathBuf>| p.as_ref().map(path);
        Ok(json!({
            "kiungo": env!("CARGO_PKG_VERSION"),
            "device": common::device_in_words(device),
            "model": self.model.to_string(),
            "pairs": path(&self.pairs), "dev": optional(&self.dev), "control": optional(&self.control),
            "data": self.data.iter().map(path).collect::<Vec<_>>(),
            "languages": self.languages, "distractors": optional(&self.distractors), "text": optional(&self.text),
            "rates": self.rates, "epochs": self.epochs, "batch": self.batch,
            "base": self.base.to_string(), "max_length": self.max_length,
        }))
    }
}
