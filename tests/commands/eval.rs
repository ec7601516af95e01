//! `kiungo eval` on the built-in model and questions.

use super::more_passages;
use assert_cmd::Command;
use kiungo::training::builtin;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn kiungo(folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command
        .current_dir(folder)
        .args(["eval", "--model", "in/model", "--device", "cpu"])
        .args(arguments)
        .output()
        .unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    more_passages(folder.path());
    folder
}

fn rows(output: &std::process::Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).to_string()
}

#[test]
fn every_view_and_treatment_in_one_pass() {
    let folder = folder();
    let all = [
        "--data",
        "in/xquad",
        "--views",
        "english,own,matrix,pooled,mteb",
        "--layers",
        "1,final",
        "--pooling",
        "mean-no-sink,last",
        "--center",
        "--baselines",
        "--pairs",
        "in/words.sw-en.tsv",
        "--distractors",
        "in/more",
        "--ranks",
        "ranks.tsv",
        "--json",
    ];
    let rows = rows(&kiungo(folder.path(), &all));
    let treatments = |word: &str| rows.iter().filter(|row| row["treatment"] == word).count();
    // Layers 0, 1 and final, each under two poolings: 2 English settings (one with distractors), 2 own and their mean, 4 of
    // the matrix and the mean of 2, 3 pooled, 2 of MTEB and their mean.
    let a_reading = 2 + 3 + 5 + 3 + 3;
    for word in ["plain", "centred", "cross-fitted"] {
        assert_eq!(treatments(word), 6 * a_reading, "{word}");
    }
    // Maps: Swahili over English, in both English settings and the matrix.
    assert_eq!((treatments("procrustes"), treatments("ridge")), (6 * 3, 6 * 3));
    assert_eq!(treatments("bm25"), a_reading - 3);
    let ranks = fs::read_to_string(folder.path().join("ranks.tsv")).unwrap();
    assert_eq!(ranks.lines().filter(|line| line.contains("\tbm25\t")).count(), 36 * (2 + 2 + 4 + 2));
    for row in &rows {
        let value = |key: &str| row[key].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value("accuracy_at_1")), "{row}");
        assert!(row["view"] == "pooled" || value("accuracy_at_1") <= value("recall_at_5"), "{row}");
        assert_eq!(row["same_language"].is_null(), row["view"] != "pooled");
    }
}

#[test]
fn embeddings_are_kept_and_used_again() {
    let folder = folder();
    let arguments = ["--data", "in/xquad", "--layers", "1", "--embeddings", "kept", "--json"];
    let first = kiungo(folder.path(), &arguments);
    let again = kiungo(folder.path(), &arguments);
    assert_eq!(rows(&first), rows(&again));
    assert!(
        !said(&first).contains("embeddings of")
            && said(&again).contains("note: embeddings of SQuAD are those in kept/squad.safetensors")
    );
    let other = kiungo(folder.path(), &[&arguments[..], &["--base", "f32"]].concat());
    let error = said(&other).lines().last().unwrap().to_string();
    assert_eq!(
        error,
        "error: kept/squad.safetensors: made with other base (bf16, now f32); name another file, or remove this one"
    );
}

#[test]
fn languages_that_are_not_there_are_named() {
    let folder = folder();
    let output = kiungo(folder.path(), &["--data", "in/xquad", "--languages", "en,xx"]);
    assert_eq!(said(&output).lines().last().unwrap(), "error: in/xquad: nothing in xx; languages there: en, sw");
}
