//! What a run was begun with, and whether it goes on with the same.

use super::args::Train;
use crate::commands::model::Source;
use crate::formats::kiungo_json::Identity;
use crate::llama::Layer;
use crate::words::as_word;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// `config.json` in a run's folder.
#[derive(Clone, Serialize, Deserialize)]
pub struct RunRecord {
    /// The program's version.
    pub kiungo: String,
    /// The device, in words.
    pub device: String,
    /// Element type of activations.
    pub compute: String,
    /// The model's folder, or its name.
    #[serde(with = "as_word")]
    pub model: Source,
    /// What tells the model from others.
    pub identity: Identity,
    /// Every choice, resolved.
    pub settings: Value,
    /// Layers that are scored.
    pub layers: Vec<Layer>,
    /// SHA-256 of every data file, by path.
    pub data: BTreeMap<String, String>,
    /// What the user gave of it.
    pub arguments: Train,
}

/// What the run was begun with, and what is given now on top of it; with the names of arguments that changed.
pub fn merge(given: &Train, begun: &RunRecord) -> Result<(Train, Vec<String>)> {
    let (given_map, mut merged) = (arguments(given)?, arguments(&begun.arguments)?);
    let mut changed = vec![];
    for (name, value) in given_map {
        if !value.is_null() && merged.get(&name) != Some(&value) {
            changed.push(format!("--{name}"));
            merged.insert(name, value);
        }
    }
    let recorded: Train = serde_json::from_value(Value::Object(merged)).context("the arguments of the run")?;
    let Train { dry_run, stop_after, keeping, .. } = given.clone();
    Ok((Train { dry_run, stop_after, keeping, output: None, ..recorded }, changed))
}

fn arguments(train: &Train) -> Result<Map<String, Value>> {
    match serde_json::to_value(train).context("arguments")? {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

impl RunRecord {
    /// An error, with the names of the `changed` arguments, where going on as `now` says would not end in the bytes of the
    /// run that was begun as `self` says.
    pub fn check_same_result(&self, now: &RunRecord, changed: &[String], folder: &Path) -> Result<()> {
        let folder = folder.display();
        let same = self.settings == now.settings && self.layers == now.layers && self.compute == now.compute;
        let sums = |record: &RunRecord| {
            let mut sums: Vec<String> = record.data.values().cloned().collect();
            sums.sort_unstable();
            sums
        };
        let (same_model, same_data) = (self.identity == now.identity, sums(self) == sums(now));
        if !(changed.is_empty() || same && same_model && same_data) {
            bail!(
                "{} would change the result of the run in {folder}; leave it out, or begin a new run with --output",
                changed.join(", ")
            );
        }
        ensure!(same_model, "{}: not the model that the run in {folder} was begun with; put it back", now.model);
        if let Some((path, _)) = now.data.iter().find(|(path, sum)| self.data.get(*path) != Some(sum) && !same_data) {
            bail!("{path}: not what it was when the run in {folder} was begun; put it back, or begin a new run");
        }
        ensure!(same_data, "a data file is missing that the run in {folder} was begun with; put it back");
        let kind = |device: &str| device.starts_with("CPU");
        ensure!(
            kind(&self.device) == kind(&now.device) && self.compute == now.compute,
            "the run in {folder} was begun on {} in {}, and --device now gives {} in {}; go on there, or begin a new run",
            self.device,
            self.compute,
            now.device,
            now.compute
        );
        ensure!(same, "the settings of the run in {folder} are those of another version of kiungo ({})", self.kiungo);
        if !kind(&self.device) && self.device != now.device {
            eprintln!(
                "note: the run was begun on {}, and goes on on {}: the bytes may differ",
                self.device, now.device
            );
        }
        Ok(())
    }
}
