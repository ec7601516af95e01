//! `kiungo report`: the findings of a comparison, made again from its folder.

use super::compare::Folder;
use anyhow::{Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Make the report of a comparison again from its folder, finished or not: no model, data or GPU is needed
///
/// Writes report.html, report.txt, findings.json, findings.csv, languages.csv and runs.csv from the ranks and figures that
/// every finished run has left.
#[derive(Args)]
pub struct Report {
    /// Folder that kiungo compare has filled
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let place = self.folder.display();
        ensure!(self.folder.is_dir(), "{place}: no such folder");
        let has = |name: &str| self.folder.join(name).exists();
        let why =
            if has("summary.json") { "a run of train has its report.html already" } else { "no compare.json in it" };
        ensure!(has("compare.json"), "{place}: not the folder of a comparison: {why}");
        let report = Folder(self.folder.clone()).conclude()?;
        println!("{}\nfolder: {place}", report.to_text());
        Ok(())
    }
}
