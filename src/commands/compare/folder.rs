//! A comparison's folder: what is in it, and the findings and the report that are made of it, without a model or a GPU.

use crate::formats::output;
use crate::llama::model::Base;
use crate::report::{Report, Section, Table};
use crate::retrieval::pilot::most_important;
use crate::retrieval::ranks;
use crate::retrieval::statistics::Bootstrap;
use crate::training::arms::Arm;
use crate::training::findings::{ArmRuns, Edge, Findings, Measured, Training, runs_csv};
use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A folder that `kiungo compare` fills.
pub struct Folder(pub PathBuf);

/// What was asked for, and is no part of what decides each run: `asked.json`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The command line.
    pub command: String,
    /// The arms, in their order.
    pub arms: Vec<Arm>,
    /// Seeds, from 0.
    pub seeds: u64,
    /// The first data set.
    pub data: String,
    /// What the program chose, dropped or cut, in words.
    pub notes: Vec<String>,
}

/// How much each block of the base changes the pairs' last tokens, 1 - linear CKA: `importance.json`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Importance {
    /// The texts that it was measured on.
    pub texts: usize,
    /// One a block.
    pub blocks: Vec<f64>,
}

impl Importance {
    /// The blocks that an arm asks for, ascending.
    pub fn chosen(&self, count: usize) -> Vec<usize> {
        most_important(&self.blocks, count)
    }

    /// Every block, and which arms have adapters in it.
    fn section(&self, arms: &[ArmRuns]) -> Option<Section> {
        let asked = |arm: &ArmRuns| if let Arm::Cka(count) = arm.arm { Some(count) } else { None };
        let counts: Vec<usize> = arms.iter().filter_map(asked).collect();
        if counts.is_empty() {
            return None;
        }
        let mut table = Table::new(["block", "1 - CKA", "adapters of"]);
        for (block, value) in self.blocks.iter().enumerate() {
            let those = counts.iter().filter(|count| self.chosen(**count).contains(&block));
            let names = those.map(|count| Arm::Cka(*count).to_string()).collect::<Vec<_>>();
            table.row([block.to_string(), format!("{value:.4}"), names.join(", ")]);
        }
        let text = format!(
            "How much each block changes the state of the last token: 1 - linear CKA (arXiv 2602.05988) before training, of {} texts of the pairs to learn from. cka:N has its adapters in the N that change it most.",
            self.texts
        );
        Some(Section::new("Blocks by importance").text(text).table(table))
    }
}

impl Folder {
    /// The path of something inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What decides the results.
    fn record(&self) -> Result<Value> {
        read_json(&self.path("compare.json"))
    }

    /// Checks that what the folder holds is of the comparison that `record` decides, or begins it with that.
    pub fn begin(&self, record: &Value) -> Result<()> {
        let path = self.path("compare.json");
        if !path.exists() {
            output::create_new(&self.0)?;
            return Ok(output::write_file(&path, serde_json::to_string_pretty(record)?)?);
        }
        let known = self.record()?;
        let differs = record.as_object().into_iter().flatten().find(|(key, value)| known.get(key) != Some(value));
        if let Some((key, value)) = differs {
            let was = known.get(key).unwrap_or(&Value::Null);
            let path = path.display();
            anyhow::bail!("{path}: begun with {key} {was}, now {value}; name another --output, or give the same");
        }
        Ok(())
    }

    /// What a run's folder holds, where it came to its end.
    pub fn finished(&self, name: &str) -> Result<Option<Measured>> {
        let folder = self.path(name);
        let path = folder.join("run.json");
        Ok(if path.exists() { Some((read_json(&path)?, ranks::read(&folder.join("ranks.tsv"))?)) } else { None })
    }

    /// How a run ended whose training diverged: `diverged.json`.
    pub fn diverged(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name).join("diverged.json");
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Notes that a run's training diverged.
    pub fn diverge(&self, name: &str, how: &String) -> Result<()> {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(output::write_file(&folder.join("diverged.json"), serde_json::to_string(how)?)?)
    }

    /// The finished runs of an arm; words on those that diverged go to `notes`.
    fn runs(&self, asked: &Asked, arm: Arm, notes: &mut Vec<String>) -> Result<Vec<Measured>> {
        let mut runs = vec![];
        for seed in 0..asked.seeds {
            let name = format!("{arm}/seed-{seed}");
            match (self.finished(&name)?, self.diverged(&name)?) {
                (Some(run), _) => runs.push(run),
                (None, Some(how)) => notes.push(format!("{arm}, seed {seed}, is left out: {how}.")),
                (None, None) => break,
            }
        }
        if runs.len() < asked.seeds as usize && asked.seeds < u64::MAX {
            notes.push(format!("{arm}: {} of {} seeds are finished", runs.len(), asked.seeds));
        }
        Ok(runs)
    }

    fn rate_path(&self, arm: Arm, rate: f64) -> PathBuf {
        self.path(&arm.to_string()).join(format!("rate-{rate:e}.json"))
    }

    /// How an arm did at a learning rate, where that was tried.
    pub fn rate(&self, arm: Arm, rate: f64) -> Result<Option<f64>> {
        let path = self.rate_path(arm, rate);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Notes how an arm did at a learning rate.
    pub fn tried(&self, arm: Arm, rate: f64, found: f64) -> Result<()> {
        let folder = self.path(&arm.to_string());
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(output::write_file(&self.rate_path(arm, rate), serde_json::to_string(&found)?)?)
    }

    /// Each learning rate that was tried for an arm, ascending, with the development pairs' mean reciprocal rank.
    fn rates(&self, arm: Arm) -> Result<Vec<(f64, f64)>> {
        let folder = self.path(&arm.to_string());
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut rates = vec![];
        for entry in entries.flatten() {
            let name = entry.file_name();
            let rate = name.to_str().and_then(|n| n.strip_prefix("rate-")?.strip_suffix(".json")?.parse::<f64>().ok());
            if let Some(rate) = rate {
                rates.push((rate, read_json(&entry.path())?));
            }
        }
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(rates)
    }

    /// What was asked for; of a folder that does not say, all that is in it.
    fn asked(&self) -> Result<Asked> {
        let path = self.path("asked.json");
        if path.exists() {
            return read_json(&path);
        }
        let there = |arm: &Arm| self.path(&format!("{arm}/seed-0/run.json")).exists();
        Ok(Asked {
            command: String::new(),
            arms: Arm::NAMED.into_iter().map(|(arm, _)| arm).filter(there).collect(),
            seeds: u64::MAX,
            data: self.first_data()?,
            notes: vec![],
        })
    }

    /// The data set of the base's first ranks.
    fn first_data(&self) -> Result<String> {
        let path = self.path(&format!("base-{}/ranks.tsv", self.base()?));
        let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
        let line = BufReader::new(file).lines().nth(1).transpose().with_context(|| path.display().to_string())?;
        let data = line.as_deref().and_then(|line| line.split('\t').next());
        Ok(data.with_context(|| format!("{}: no ranks", path.display()))?.into())
    }

    fn base(&self) -> Result<Base> {
        let path = self.path("compare.json");
        let word = self.record()?["base"].as_str().map(str::to_string);
        let word = word.with_context(|| format!("{}: names no base", path.display()))?;
        word.parse().map_err(|e: String| anyhow::anyhow!("{}: {e}", path.display()))
    }

    /// Makes findings and report of what is finished, writes them, and returns the report.
    pub fn conclude(&self) -> Result<Report> {
        let (asked, base) = (self.asked()?, self.base()?);
        let mut notes = asked.notes.clone();
        let mut bases: BTreeMap<String, Measured> = BTreeMap::new();
        let mut found = vec![];
        for &arm in &asked.arms {
            let name = arm.base(base).to_string();
            let runs = self.runs(&asked, arm, &mut notes)?;
            let target = runs.first().and_then(|(run, _)| run.control.keys().next().cloned());
            let Some(target) = target else { continue };
            if !bases.contains_key(&name) {
                let measured = self.finished(&format!("base-{name}"))?;
                let measured = measured.with_context(|| format!("{}: no base-{name}", self.0.display()))?;
                bases.insert(name.clone(), measured);
            }
            found.push((arm, name, target, runs));
        }
        ensure!(!found.is_empty(), "{}: no arm has a finished run yet", self.0.display());
        let mut arms = vec![];
        for (arm, name, target, runs) in found {
            arms.push(ArmRuns { arm, target, runs, base: &bases[&name], rates: self.rates(arm)? });
        }
        let findings = Findings::new(&arms, &asked.data, &Bootstrap::default())?;
        notes.extend(edges(&findings.training));
        let mut report = findings.report(&arms, &notes)?;
        let importance = self.path("importance.json");
        if importance.exists() {
            report.sections.extend(read_json::<Importance>(&importance)?.section(&arms));
        }
        report.sections.push(self.section(&asked, &arms)?);
        let write = |name: &str, text: String| output::write_file(&self.path(name), text);
        write("findings.json", serde_json::to_string_pretty(&findings)?)?;
        write("findings.csv", findings.gains_csv()?)?;
        write("languages.csv", findings.languages_csv()?)?;
        write("runs.csv", runs_csv(&arms)?)?;
        write("report.html", report.to_html())?;
        write("report.txt", report.to_text())?;
        Ok(report)
    }

    /// What decided the results, with versions and checksums, and the command.
    fn section(&self, asked: &Asked, arms: &[ArmRuns]) -> Result<Section> {
        let mut table = Table::new(["setting", "value"]);
        if !asked.command.is_empty() {
            table.row(["command", &asked.command]);
        }
        let seeds = arms.iter().map(|arm| arm.runs.len()).max().unwrap_or(0);
        table.row(["seeds", &format!("0 to {}", seeds.saturating_sub(1))]);
        let record = self.record()?;
        for (name, value) in record.as_object().into_iter().flatten() {
            rows_of(&mut table, &name.replace('_', " "), value);
        }
        Ok(Section::new("What was run").table(table))
    }
}

/// Words of caution about arms whose best learning rate has none beyond it.
fn edges(trainings: &[Training]) -> impl Iterator<Item = String> {
    [(Edge::Lowest, "lowest"), (Edge::Highest, "highest")].into_iter().filter_map(|(edge, end)| {
        let names: Vec<String> =
            trainings.iter().filter(|t| t.edge == Some(edge)).map(|training| training.arm.to_string()).collect();
        let (count, names) = (names.len(), names.join(", "));
        (count > 0).then(|| {
            format!("The best learning rate is the {end} that was tried: {names}; wider --rates may find a better one.")
        })
    })
}

/// A row for a value, or one for each of the named values in it.
fn rows_of(table: &mut Table, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(text) => _ = table.row([name, text]),
        Value::Object(inner) => inner.iter().for_each(|(key, value)| rows_of(table, &format!("{name}: {key}"), value)),
        Value::Array(all) => {
            let words = all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
            table.row([name, &words.collect::<Vec<_>>().join(", ")]);
        }
        other => _ = table.row([name, &other.to_string()]),
    }
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{}: not what kiungo wrote; remove it to measure again", path.display()))
}
