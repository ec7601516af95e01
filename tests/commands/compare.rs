//! `kiungo compare` on the built-in model, words and questions.

use super::more_passages;
use assert_cmd::Command;
use kiungo::training::builtin;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn compare(folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args([
        "compare",
        "--device",
        "cpu",
        "--model",
        "in/model",
        "--pairs",
        "in/words.sw-en.tsv",
    ]);
    command.args([
        "--data",
        "in/xquad",
        "--distractors",
        "in/more",
        "--base",
        "f32",
        "--output",
        "out",
        "--text",
        "text",
    ]);
    command.args(["--seeds", "2", "--rates", "1,3", "--epochs", "2"]).args(arguments).output().unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    more_passages(folder.path());
    fs::write(folder.path().join("text"), "maji ni uhai\nwater is life\n").unwrap();
    folder
}

/// Findings but for what differs each time.
fn without_seconds(findings: &str) -> Value {
    let mut findings: Value = serde_json::from_str(findings).unwrap();
    for training in findings["training"].as_array_mut().unwrap() {
        assert!(training["seconds"].take().as_f64().unwrap() > 0.0);
    }
    findings
}

#[test]
fn an_interrupted_comparison_goes_on_to_the_same_findings() {
    let folder = folder();
    let arms = ["--arms", "lora@2,full-blocks@2,full@final,shuffled"];
    let output = compare(folder.path(), &arms);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = folder.path().join("out");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let (first, csv) = (read("findings.json"), read("findings.csv"));
    let findings: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(findings["primary"]["paragraphs"], "en");
    // English passages with and without distractors, own ones; each plain, centred and cross-fitted.
    assert_eq!(findings["gains"].as_array().unwrap().len(), 4 * 9);
    assert_eq!(csv.lines().count(), 1 + 4 * 9);
    for gain in findings["gains"].as_array().unwrap() {
        let value = |path: [&str; 2]| gain[path[0]][path[1]].as_f64().unwrap();
        let difference = value(["accuracy", "value"]) - value(["base", "value"]);
        assert!((gain["gain"]["estimate"]["value"].as_f64().unwrap() - difference).abs() < 1e-12, "{gain}");
    }
    assert!(findings["verdict"].as_str().unwrap().contains("lora@2 less full@final"));
    let run: Value = serde_json::from_str(&read("full-blocks@2/seed-1/run.json")).unwrap();
    let whole: Value = serde_json::from_str(&read("full@final/seed-1/run.json")).unwrap();
    assert!(run["perplexity"].as_f64().unwrap() > 1.0 && whole["parameters"].as_u64() > run["parameters"].as_u64());
    assert!(read("report.html").contains("<svg") && read("report.txt").contains("By language"));

    // Two runs are lost, one of them half written, and a rate; the rest is made by several threads at once.
    fs::remove_dir_all(out.join("lora@2/seed-0")).unwrap();
    fs::remove_file(out.join("full@final/seed-1/run.json")).unwrap();
    fs::remove_file(out.join("shuffled/rate-3e-3.json")).unwrap();
    fs::remove_file(out.join("findings.json")).unwrap();
    assert!(compare(folder.path(), &[&arms[..], &["--jobs", "3"]].concat()).status.success());
    assert_eq!(without_seconds(&read("findings.json")), without_seconds(&first));
    assert!(read("report.txt").contains("3 runs shared the device"));

    let other = compare(folder.path(), &["--batch", "32"]);
    let error = String::from_utf8_lossy(&other.stderr).lines().last().unwrap().to_string();
    assert_eq!(
        error,
        "error: out/compare.json: begun with batch null, now 32; name another --output, or give the same"
    );
}

#[test]
fn blocks_may_be_chosen_by_how_much_they_change() {
    let folder = folder();
    let output = compare(folder.path(), &["--arms", "cka:1,cka:3"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = folder.path().join("out");
    let importance: Value = serde_json::from_slice(&fs::read(out.join("importance.json")).unwrap()).unwrap();
    let values: Vec<f64> = importance["blocks"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let best = (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best }).unwrap();
    let report = fs::read_to_string(out.join("report.txt")).unwrap();
    let section = report.split("Blocks by importance").nth(1).unwrap();
    let rows: Vec<Vec<&str>> =
        section.lines().map(|l| l.split_whitespace().collect()).filter(|r: &Vec<&str>| r.len() > 1).collect();
    let row = rows.iter().find(|row| row[0] == best.to_string()).unwrap();
    assert_eq!(row[1..], [format!("{:.4}", values[best]).as_str(), "cka:1,", "cka:3"]);
    // Three blocks of adapters learn three times as much as one.
    let parameters = |arm: &str| {
        let run: Value = serde_json::from_slice(&fs::read(out.join(arm).join("seed-0/run.json")).unwrap()).unwrap();
        run["parameters"].as_u64().unwrap()
    };
    assert_eq!(parameters("cka:3"), 3 * parameters("cka:1"));
    let too_many = compare(folder.path(), &["--arms", "cka:9"]);
    let error = String::from_utf8_lossy(&too_many.stderr).lines().last().unwrap().to_string();
    assert_eq!(error, "error: --arms cka:9: the model has 4 blocks");
    for wrong in ["cka:0", "cka:", "lora@3"] {
        assert_eq!(compare(folder.path(), &["--arms", wrong]).status.code(), Some(2), "{wrong}");
    }
}

/// A training that diverges is a result: its rate is not chosen, its seed is left out and named, and the rest goes on.
#[test]
fn what_diverges_is_left_out_and_said() {
    let folder = folder();
    let arms = ["--arms", "full@2,lora@2", "--rates", "1,1e35"];
    let output = compare(folder.path(), &arms);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("full@2, rate 2e31: diverged at step "), "{said}");
    let out = folder.path().join("out");
    let rate = |rate: &str| fs::read_to_string(out.join(format!("full@2/rate-{rate}.json"))).unwrap();
    assert!(rate("2e31") == "0.0" && rate("2e-4").parse::<f64>().unwrap() > 0.0);

    // A seed that had diverged.
    fs::remove_dir_all(out.join("lora@2/seed-0")).unwrap();
    fs::create_dir(out.join("lora@2/seed-0")).unwrap();
    fs::write(out.join("lora@2/seed-0/diverged.json"), "\"diverged at step 3 (learning rate 1e-3)\"").unwrap();
    let output = compare(folder.path(), &arms);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(out.join("report.txt")).unwrap();
    let report = report.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(report.contains("lora@2, seed 0, is left out: diverged at step 3 (learning rate 1e-3)."), "{report}");
    assert!(report.contains("lora@2: 1 of 2 seeds are finished"), "{report}");
    assert!(!out.join("lora@2/seed-0/run.json").exists());
}
