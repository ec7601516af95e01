//! What `train` writes, `eval` reads: the scores after training are those of the saved weights.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn kiungo(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(arguments).args(["--device", "cpu"]);
    command.assert().success().get_output().stdout.clone()
}

fn accuracies(rows: &Value) -> Vec<(String, String, String, f64)> {
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_string();
    let row = |r: &Value| {
        (word(r, "questions"), word(r, "paragraphs"), word(r, "layer"), r["accuracy_at_1"].as_f64().unwrap())
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn an_adapter_scores_as_it_did_when_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    kiungo(folder.path(), &["train", "--epochs", "3", "--output", "run"]);
    let summary: Value = serde_json::from_slice(&fs::read(folder.path().join("run/summary.json")).unwrap()).unwrap();
    let eval =
        ["eval", "--model", "run/input/model", "--adapter", "run/adapter", "--xquad", "run/input/xquad", "--json"];
    let again: Value = serde_json::from_slice(&kiungo(folder.path(), &eval)).unwrap();
    assert_eq!(accuracies(&again), accuracies(&summary["questions_after"]));
    assert_ne!(accuracies(&again), accuracies(&summary["questions_before"]));
    for file in ["config.json", "metrics.jsonl", "report.html", "report.txt", "adapter/adapter_config.json"] {
        assert!(folder.path().join("run").join(file).metadata().unwrap().len() > 0, "{file}");
    }
}

/// Weights are saved in bf16, norms too, which training keeps in f32: a question or two may change places.
#[test]
fn a_trained_model_scores_as_it_did_when_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    kiungo(folder.path(), &["train", "--method", "full", "--epochs", "3", "--output", "run"]);
    let summary: Value = serde_json::from_slice(&fs::read(folder.path().join("run/summary.json")).unwrap()).unwrap();
    let eval = ["eval", "--model", "run/model", "--xquad", "run/input/xquad", "--json"];
    let again: Value = serde_json::from_slice(&kiungo(folder.path(), &eval)).unwrap();
    for (again, then) in accuracies(&again).iter().zip(accuracies(&summary["questions_after"])) {
        assert_eq!((&again.0, &again.1, &again.2), (&then.0, &then.1, &then.2));
        assert!((again.3 - then.3).abs() <= 2.0 / 36.0, "{again:?}, {then:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    for run in ["one", "two"] {
        kiungo(folder.path(), &["train", "--epochs", "2", "--output", run]);
    }
    for file in ["adapter/adapter_model.safetensors", "input/model/model.safetensors"] {
        let read = |run: &str| fs::read(folder.path().join(run).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file}");
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = String::from_utf8(kiungo(folder.path(), &["train", "--dry-run", "--output", "run"])).unwrap();
    assert!(text.contains("plan: lora@2 in blocks 0 to 1 trains 74,752 parameters"), "{text}");
    assert!(text.contains("memory: weights"), "{text}");
    assert!(text.contains("reads 38 of 38 tensors, ") && text.contains("\nexpected peak: "), "{text}");
    assert!(!folder.path().join("run").exists());
}
