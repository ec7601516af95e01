//! A run's folder: configuration, metrics, weights, summary and report.

use crate::formats::output;
use crate::report::Report;
use crate::training::outcome::Summary;
use anyhow::{Context, Result};
use serde::Serialize;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where runs go unless the user names a folder.
const RUNS: &str = "runs";

/// A new folder. Unless the run begins, it is removed again.
pub struct RunFolder {
    root: PathBuf,
    begun: Cell<bool>,
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.begun.get() {
            // Nothing of value is in it. Should it stay, the next run takes another number.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

impl RunFolder {
    /// The folder named, which must be new or empty, or the next number under `runs/`.
    pub fn choose(named: Option<&Path>) -> Result<RunFolder> {
        let root = match named {
            Some(folder) => folder.to_path_buf(),
            None => next_number(Path::new(RUNS))?,
        };
        output::create_new(&root)?;
        Ok(RunFolder { root, begun: Cell::new(false) })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A place in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where built-in input is written.
    pub fn input(&self) -> Result<PathBuf> {
        let folder = self.path("input");
        output::create_new(&folder)?;
        Ok(folder)
    }

    /// Writes the resolved configuration.
    pub fn begin(&self, record: &serde_json::Value) -> Result<()> {
        self.begun.set(true);
        self.write("config.json", &serde_json::to_string_pretty(record)?)
    }

    /// `metrics.jsonl`, open for the run.
    pub fn metrics(&self) -> Result<Metrics> {
        let path = self.path("metrics.jsonl");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Metrics { file })
    }

    /// Writes summary and report.
    pub fn finish(&self, summary: &Summary, report: &Report) -> Result<()> {
        self.write("summary.json", &serde_json::to_string_pretty(summary)?)?;
        self.write("report.html", &report.to_html())?;
        self.write("report.txt", &report.to_text())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(output::write_file(&self.path(name), text)?)
    }
}

fn next_number(runs: &Path) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| runs.display().to_string())?;
    let entries = fs::read_dir(runs).with_context(|| runs.display().to_string())?;
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<usize>().ok());
    Ok(runs.join(format!("{:04}", numbers.max().unwrap_or(0) + 1)))
}

/// JSON lines, each on disk when [`Metrics::line`] returns.
pub struct Metrics {
    file: File,
}

impl Metrics {
    /// Adds a line.
    pub fn line(&mut self, record: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}
