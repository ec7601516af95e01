//! The commands on a real model: SmolLM2-135M-Instruct (dequantised from a Q4_1 file), against what transformers + PEFT reach
//! with it. Needs `KIUNGO_SMOLLM2=DIR`, a folder made by `scripts/make-smollm2`; `.ci/run` makes one. Those that take minutes, or
//! are timed, need `KIUNGO_TIMED=1` too, and a machine with nothing else to do.

use crate::support::{path, smollm2};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What transformers takes for the same texts on two cores of an EPYC with AVX-512: tests/peer/xquad_time.py.
const TRANSFORMERS: Duration = Duration::from_secs(89);

/// The model's folder, where there are minutes to spare.
fn with_time() -> Option<PathBuf> {
    if std::env::var_os("KIUNGO_TIMED").is_none() {
        eprintln!("skipped: takes minutes; KIUNGO_TIMED=1 runs it");
        return None;
    }
    smollm2()
}

fn kiungo(subcommand: &str, model: &Path) -> Command {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.args([subcommand, "--device", "cpu", "--base", "f32", "--model"]).arg(model);
    command
}

/// A folder with XQuAD's English file, unpacked.
fn xquad(folder: &Path) -> PathBuf {
    let packed = path("data/xquad/xquad.en.json.gz");
    let json = Command::new("gzip").arg("-dc").arg(packed).assert().success().get_output().stdout.clone();
    fs::write(folder.join("xquad.en.json"), json).unwrap();
    folder.into()
}

/// Scores English XQuAD at layers of which transformers' accuracy is known, and says how long that took.
fn scores_xquad(model: &Path, layers: &[(&str, f64)]) -> Duration {
    let data = tempfile::tempdir().unwrap();
    let mut eval = kiungo("eval", model);
    let names: Vec<&str> = layers.iter().map(|(layer, _)| *layer).collect();
    eval.arg("--xquad").arg(xquad(data.path())).args(["--languages", "en", "--layers", &names.join(","), "--json"]);
    eval.args(["--pooling", "mean-no-sink", "--bos", "tokenizer", "--max-length", "512"]);
    let begin = Instant::now();
    let output = eval.assert().success().get_output().stdout.clone();
    let took = begin.elapsed();
    let rows: Value = serde_json::from_slice(&output).unwrap();
    for &(layer, expected) in layers {
        let row = rows.as_array().unwrap().iter().find(|row| row["layer"] == layer).unwrap();
        let found = row["accuracy_at_1"].as_f64().unwrap();
        println!("XQuAD en -> en, hidden {layer}: accuracy@1 {found:.4}, transformers {expected}");
        assert_eq!(row["count"], 1190);
        assert!((found - expected).abs() <= 0.003, "hidden {layer}: {found}, transformers {expected}");
    }
    took
}

#[test]
fn smollm2_scores_xquad_as_transformers_does() {
    let Some(model) = smollm2() else { return };
    scores_xquad(&model, &[("1", 0.569)]);
}

#[test]
fn smollm2_scores_xquad_at_all_depths_as_fast_as_transformers() {
    let Some(model) = with_time() else { return };
    let took = scores_xquad(&model, &[("1", 0.569), ("12", 0.412), ("final", 0.317)]);
    println!("XQuAD en: {took:.1?}, transformers {TRANSFORMERS:?}");
    assert!(took <= TRANSFORMERS, "{took:?}, transformers {TRANSFORMERS:?}");
}

struct Run {
    summary: Value,
    took: Duration,
}

/// Trains on the Romanian words, in their order, without dropout.
fn romanian(model: &Path, arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let mut train = kiungo("train", model);
    for group in ["train", "dev", "control"] {
        let option = if group == "train" { "pairs" } else { group };
        train.arg(format!("--{option}")).arg(path(&format!("data/wold/romanian.{group}.tsv")));
    }
    // Scored at hidden(2) alone, which saves half a minute of the other 28 blocks.
    train.args(["--dropout", "0", "--shuffle", "off", "--layers", "2", "--output"]).arg(&output).args(arguments);
    let begin = Instant::now();
    train.assert().success();
    let took = begin.elapsed();
    let summary = serde_json::from_slice(&fs::read(output.join("summary.json")).unwrap()).unwrap();
    Run { summary, took }
}

impl Run {
    /// Word retrieval from Romanian to English at hidden(2), after training: value and interval.
    fn precision(&self, group: &str) -> [f64; 3] {
        let rows = self.summary["words"].as_array().unwrap();
        let row = rows.iter().find(|row| row["group"] == group && row["layer"] == "2").unwrap();
        let after = &row["change"]["to_target"]["precision_at_1"]["after"];
        ["value", "low", "high"].map(|key| after[key].as_f64().unwrap())
    }

    fn collapsed(&self) -> bool {
        self.summary["collapse"]["collapsed"].as_bool().unwrap()
    }

    fn report(&self, name: &str) {
        let loss = self.summary["final_loss"].as_f64().unwrap();
        let [train, ..] = self.precision("train");
        let [value, low, high] = self.precision("control");
        println!(
            "{name}: loss {loss:.4}, P@1 ro -> en: trained {train:.3}, control {value:.3} [{low:.3}, {high:.3}], collapsed: {}, {:.1?}",
            self.collapsed(),
            self.took
        );
    }
}

#[test]
fn smollm2_learns_romanian_words_with_adapters() {
    let Some(model) = smollm2() else { return };
    let run = romanian(&model, &[]);
    run.report("clean, lora");
    assert!(run.precision("train")[0] >= 0.25);
    assert!(!run.collapsed());
    assert!(run.took < Duration::from_secs(180));
}

#[test]
fn smollm2_learns_romanian_words_with_all_weights() {
    let Some(model) = with_time() else { return };
    let run = romanian(&model, &["--method", "full"]);
    run.report("clean, full");
    assert!(run.precision("train")[0] >= 0.65);
    assert!(!run.collapsed());
    assert!(run.took < Duration::from_secs(180));
}

#[test]
fn smollm2_collapses_under_the_papers_loss() {
    let Some(model) = smollm2() else { return };
    let run = romanian(&model, &["--preset", "paper"]);
    run.report("paper, lora");
    assert!((run.summary["final_loss"].as_f64().unwrap() - 0.40).abs() < 0.005);
    assert!(run.collapsed());
}
