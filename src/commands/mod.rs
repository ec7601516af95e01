//! The command line: one file a subcommand, each of which parses, calls and prints.

mod common;
mod compare;
mod doctor;
mod embed;
mod eval;
mod importance;
mod inputs;
mod merge;
mod merge_adapters;
mod model;
mod pilot;
mod plan;
mod quantize;
mod random;
mod reader;
mod report;
mod train;

use clap::{Parser, Subcommand};

/// Align two languages in a Llama, and score cross-lingual retrieval before and after.
#[derive(Parser)]
#[command(name = "kiungo", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train adapters or all weights on pairs of words or sentences, and score before and after
    Train(Box<train::Train>),
    Eval(eval::Eval),
    Pilot(pilot::Pilot),
    Compare(Box<compare::Compare>),
    Report(report::Report),
    Embed(embed::Embed),
    Quantize(quantize::Quantize),
    Merge(merge::Merge),
    MergeAdapters(merge_adapters::MergeAdapters),
    Random(random::Random),
    /// Say what this build and this machine can do
    Doctor(doctor::Doctor),
}

pub use train::Interrupted;
#[doc(hidden)]
pub use train::{Blocks, SaveEvery};

impl Cli {
    /// Runs the subcommand. An error is one line, with its causes after colons.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Train(train) => train.run(),
            Command::Eval(eval) => eval.run(),
            Command::Pilot(pilot) => pilot.run(),
            Command::Compare(compare) => compare.run(),
            Command::Report(report) => report.run(),
            Command::Embed(embed) => embed.run(),
            Command::Quantize(quantize) => quantize.run(),
            Command::Merge(merge) => merge.run(),
            Command::MergeAdapters(merge) => merge.run(),
            Command::Random(random) => random.run(),
            Command::Doctor(doctor) => doctor.run(),
        }
    }
}
