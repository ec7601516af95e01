//! A run's folder: configuration, metrics, checkpoints, weights, summary and report.

use super::record::RunRecord;
use crate::formats::output::{self, NewFolder};
use crate::report::{Report, csv};
use crate::training::builtin::{self, Builtin};
use crate::training::checkpoint::Checkpoints;
use crate::training::history::{History, SkippedRecord};
use crate::training::outcome::Summary;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where runs go unless the user names a folder.
const RUNS: &str = "runs";
const CONFIG: &str = "config.json";
const INPUT: &str = "input";
const METRICS: &str = "metrics.jsonl";
/// Written last.
const SUMMARY: &str = "summary.json";
/// Adapters, and all weights.
pub const RESULTS: [&str; 2] = ["adapter", "model"];

/// The folder of one run, which no other process writes to. Unless the run begins, it is removed again.
pub struct RunFolder {
    root: PathBuf,
    begun: Cell<bool>,
    /// Locked as long as it is open.
    _lock: File,
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
        let lock = lock(&root)?;
        Ok(RunFolder { root: absolute(&root)?, begun: Cell::new(false), _lock: lock })
    }

    /// The folder of a run to go on with, or one to begin it in. What a killed run had half written is removed.
    pub fn reopen(root: &Path) -> Result<RunFolder> {
        fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let lock = lock(root)?;
        output::remove_temporaries(root)?;
        let begun = root.join(CONFIG).exists();
        if !begun {
            let input = root.join(INPUT);
            if Builtin::at(&input).is_there() {
                output::remove_folder(&input)?;
            }
            output::check_new(root)?;
        }
        Ok(RunFolder { root: absolute(root)?, begun: Cell::new(begun), _lock: lock })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A place in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the last `keep` checkpoints are.
    pub fn checkpoints(&self, keep: usize) -> Checkpoints {
        Checkpoints::new(self.path("checkpoints"), keep)
    }

    /// Whether the run has come to its end.
    pub fn is_finished(&self) -> bool {
        self.path(SUMMARY).exists()
    }

    /// The built-in input: written, or as it was when the run began.
    pub fn input(&self) -> Result<Builtin> {
        let folder = self.path(INPUT);
        if !self.begun.get() {
            let new = NewFolder::create(&folder)?;
            builtin::write_to(new.path(), builtin::SEED)?;
            new.commit()?;
        }
        Ok(Builtin::at(&folder))
    }

    /// What the run was begun with, if it was.
    pub fn record(&self) -> Result<Option<RunRecord>> {
        if !self.begun.get() {
            return Ok(None);
        }
        let path = self.path(CONFIG);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let record = serde_json::from_str(&text);
        record.map(Some).map_err(|e| anyhow!("{}: not the configuration of a run: {e}", path.display()))
    }

    /// Writes the resolved configuration.
    pub fn begin(&self, record: &RunRecord) -> Result<()> {
        let text = serde_json::to_string_pretty(record).context("a run records its arguments")?;
        self.write(CONFIG, &text)?;
        self.begun.set(true);
        Ok(())
    }

    /// The text of the configuration.
    pub fn config(&self) -> Result<String> {
        let path = self.path(CONFIG);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Removes results that a killed run had begun to write.
    pub fn remove_results(&self) -> Result<()> {
        RESULTS.iter().try_for_each(|name| Ok(output::remove_folder(&self.path(name))?))
    }

    /// `metrics.jsonl`, open for a run that has its first `bytes` bytes behind it, and what they hold. What a killed run
    /// wrote after them is cut off: those steps are taken again.
    pub fn metrics(&self, bytes: u64) -> Result<(Metrics, History)> {
        let path = self.path(METRICS);
        let at = || path.display().to_string();
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).with_context(at)?;
        let found = file.metadata().with_context(at)?.len();
        ensure!(
            found >= bytes,
            "{}: {found} bytes, and the checkpoint was saved when there were {bytes}; put back the file, or begin a new run",
            path.display()
        );
        file.set_len(bytes).with_context(at)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).with_context(at)?;
        let history = history(&path, &text)?;
        Ok((Metrics { path, file, bytes }, history))
    }

    /// Writes report and summary.
    pub fn finish(&self, summary: &Summary, report: &Report) -> Result<()> {
        self.write("report.html", &report.to_html())?;
        self.write("report.txt", &report.to_text())?;
        self.write("summary.csv", &csv::flattened(&serde_json::to_value(summary)?)?)?;
        self.write(SUMMARY, &serde_json::to_string_pretty(summary)?)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(output::write_file(&self.path(name), text)?)
    }
}

fn absolute(root: &Path) -> Result<PathBuf> {
    std::path::absolute(root).with_context(|| root.display().to_string())
}

fn lock(root: &Path) -> Result<File> {
    let folder = File::open(root).with_context(|| root.display().to_string())?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("{}: another kiungo is at work on this run; wait for it, or stop it", root.display())
        }
        // Some network file systems have no locks.
        Err(fs::TryLockError::Error(_)) => Ok(folder),
    }
}

fn next_number(runs: &Path) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| runs.display().to_string())?;
    let entries = fs::read_dir(runs).with_context(|| runs.display().to_string())?;
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<usize>().ok());
    Ok(runs.join(format!("{:04}", numbers.max().unwrap_or(0) + 1)))
}

/// What the lines of `metrics.jsonl` say.
fn history(path: &Path, text: &str) -> Result<History> {
    let mut history = History::default();
    for (i, line) in text.lines().enumerate() {
        if let Ok(step) = serde_json::from_str(line) {
            history.steps.push(step);
        } else if let Ok(epoch) = serde_json::from_str(line) {
            history.epochs.push(epoch);
        } else if serde_json::from_str::<SkippedRecord>(line).is_err() {
            bail!("{}:{}: not a line that kiungo writes; put back the file, or begin a new run", path.display(), i + 1);
        }
    }
    Ok(history)
}

/// JSON lines. What was added is in the file when [`Metrics::line`] returns, and on the disk when [`Metrics::sync`] does.
pub struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Metrics {
    /// Adds a line.
    pub fn line(&mut self, record: &impl Serialize) -> Result<(), String> {
        let mut line = serde_json::to_vec(record).map_err(|e| self.error(e))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| self.error(e))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Bytes of all lines, once they are on the disk.
    pub fn sync(&self) -> Result<u64, String> {
        self.file.sync_data().map_err(|e| self.error(e))?;
        Ok(self.bytes)
    }

    fn error(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.path.display())
    }
}
