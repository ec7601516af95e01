//! A newcomer's path from the first command to the report, on what is built in; no GPU.

use assert_cmd::Command;
use std::fs;
use std::path::Path;

fn kiungo(folder: &Path, line: &str) -> String {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).env("CUDA_VISIBLE_DEVICES", "").args(line.split_whitespace());
    let output = command.output().unwrap();
    assert!(output.status.success(), "kiungo {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn from_the_first_command_to_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    kiungo(at, "train --epochs 2 --output runs/first");
    let page = fs::read_to_string(at.join("runs/first/report.html")).unwrap();
    assert!(page.contains("Cosines of control pairs") && page.contains("<svg"), "before and after");

    let model = "--model runs/first/input/model --device cpu";
    let data = "--data runs/first/input/xquad";
    let pairs = "--pairs runs/first/input/words.sw-en.tsv";
    let summary = fs::read_to_string(at.join("runs/first/summary.csv")).unwrap();
    assert!(summary.starts_with("name,value\n") && summary.lines().count() > 100, "the figures of summary.json");
    kiungo(at, &format!("pilot {model} {pairs} --report pilot.html --csv pilot.csv"));
    let rows = fs::read_to_string(at.join("pilot.csv")).unwrap();
    let columns = |line: &str| line.split(',').count();
    assert!(rows.lines().all(|line| columns(line) == 13) && rows.lines().count() == 1 + 2 * 6, "six layers, two means");
    let page = fs::read_to_string(at.join("pilot.html")).unwrap();
    assert!(page.contains("What was run") && page.contains("checksum: runs/first/input/words.sw-en.tsv"), "settings");
    kiungo(
        at,
        &format!(
            "eval {model} --adapter runs/first/adapter {data} --views english,own,matrix --layers 0,1,2 --center --baselines --report eval.html --csv eval.csv"
        ),
    );
    let page = fs::read_to_string(at.join("eval.html")).unwrap();
    assert!(
        page.contains("questions (rows) by passages") && page.contains("Accuracy@1 by layer"),
        "heat map and lines"
    );
    let rows = fs::read_to_string(at.join("eval.csv")).unwrap();
    let columns = rows.lines().next().unwrap().split(',').count();
    assert!(rows.lines().count() > 20 && rows.lines().all(|line| line.split(',').count() == columns));

    kiungo(
        at,
        &format!(
            "compare {model} {pairs} {data} --seeds 2 --rates 1 --epochs 2 --arms lora@2,full@final --output both"
        ),
    );
    let read = |name: &str| fs::read_to_string(at.join("both").join(name)).unwrap();
    let names = ["report.html", "report.txt", "findings.json", "findings.csv", "languages.csv", "runs.csv"];
    let first = names.map(read);
    for part in [
        "detectable",
        "BM25",
        "Procrustes map",
        "Loss, first seed",
        "questions by passages",
        "weights",
        "compare --model",
    ] {
        assert!(first[0].contains(part), "{part}");
    }
    names.iter().for_each(|name| fs::remove_file(at.join("both").join(name)).unwrap());

    // Model and data may be gone: the folder has all that a report needs.
    fs::remove_dir_all(at.join("runs")).unwrap();
    kiungo(at, "report both");
    assert_eq!(names.map(read), first);
}

#[test]
fn what_is_no_comparison_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |line: &str| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        let output = command.current_dir(folder.path()).args(line.split_whitespace()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).trim_end().to_string()
    };
    assert_eq!(said("report nowhere"), "error: nowhere: no such folder");
    fs::create_dir_all(folder.path().join("run/base-f32")).unwrap();
    assert_eq!(said("report run"), "error: run: not the folder of a comparison: no compare.json in it");
    fs::write(folder.path().join("run/compare.json"), r#"{"base": "f32"}"#).unwrap();
    fs::write(folder.path().join("run/base-f32/ranks.tsv"), "header\nXQuAD\tenglish\n").unwrap();
    assert_eq!(said("report run"), "error: run: no arm has a finished run yet");
    fs::create_dir_all(folder.path().join("run/lora@2/seed-0")).unwrap();
    fs::write(folder.path().join("run/lora@2/seed-0/run.json"), "{").unwrap();
    let error = said("report run");
    assert!(
        error.starts_with("error: run/lora@2/seed-0/run.json: not what kiungo wrote; remove it to measure again"),
        "{error}"
    );
}
