//! The commands on a GPU: the metrics are the CPU's within their noise.

use crate::support::{path, smollm2, under_sanitizer};
use assert_cmd::Command;
use kiungo::device::{Device, cuda};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Whether there is a GPU to run commands on.
fn gpu() -> bool {
    !under_sanitizer() && cuda::has_kernels() && Device::cuda(0).is_ok()
}

fn kiungo(arguments: &[&str], folder: &Path) -> Vec<u8> {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(arguments).assert().success().get_output().stdout.clone()
}

/// Trains, checks that every step has its line in `metrics.jsonl`, and returns the summary.
fn train(folder: &Path, arguments: &[&str]) -> Value {
    let output = tempfile::tempdir_in(folder).unwrap().path().join("run");
    let to = ["train", "--output", output.to_str().unwrap()];
    kiungo(&[&to, arguments].concat(), folder);
    let summary: Value = serde_json::from_slice(&fs::read(output.join("summary.json")).unwrap()).unwrap();
    let metrics = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<u64> = lines.filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, (1..=summary["steps"].as_u64().unwrap()).collect::<Vec<_>>(), "{arguments:?}");
    summary
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Half the width of a 95 % interval of a share of `n`, widest at a half; two such shares are compared.
fn noise(n: f64) -> f64 {
    1.96 * (0.25 / n).sqrt() + 1.0 / n
}

#[test]
fn the_built_in_run_on_a_gpu_gives_the_cpus_metrics() {
    if !gpu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for method in ["lora", "full"] {
        let run = |device| train(folder.path(), &["--device", device, "--method", method]);
        let (cpu, gpu) = (run("cpu"), run("cuda"));
        let losses = (number(&gpu["final_loss"]), number(&cpu["final_loss"]));
        println!("built-in, {method}: final loss {:.4}, {:.4} on the CPU", losses.0, losses.1);
        assert!((losses.0 - losses.1).abs() <= 0.05 * losses.1 + 0.005, "{method}: {losses:?}");
        let pairs = |summary: &Value| summary["words"].as_array().unwrap().clone();
        for (gpu, cpu) in pairs(&gpu).iter().zip(&pairs(&cpu)) {
            let precision = |row: &Value| number(&row["change"]["to_target"]["precision_at_1"]["after"]["value"]);
            let what = format!("{method}, {} at {}", gpu["group"], gpu["layer"]);
            println!("{what}: P@1 {:.3}, {:.3} on the CPU", precision(gpu), precision(cpu));
            assert!((precision(gpu) - precision(cpu)).abs() <= noise(number(&gpu["pairs"])), "{what}");
        }
        let questions = |summary: &Value| summary["questions_after"].as_array().unwrap().clone();
        for (gpu, cpu) in questions(&gpu).iter().zip(&questions(&cpu)) {
            let [found, expected] = [gpu, cpu].map(|row| number(&row["accuracy_at_1"]));
            let what = format!("{method}, {} to {} at {}", gpu["questions"], gpu["paragraphs"], gpu["layer"]);
            println!("{what}: accuracy@1 {found:.3}, {expected:.3} on the CPU");
            assert!((found - expected).abs() <= noise(number(&gpu["count"])), "{what}");
        }
    }
}

#[test]
fn smollm2_learns_romanian_words_on_a_gpu_and_is_scored() {
    let Some(model) = smollm2().filter(|_| gpu()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let packed = path("data/xquad/xquad.en.json.gz");
    let json = Command::new("gzip").arg("-dc").arg(packed).assert().success().get_output().stdout.clone();
    fs::write(folder.path().join("xquad.en.json"), json).unwrap();
    let model = fs::canonicalize(model).unwrap();
    let words = |group: &str| path(&format!("data/wold/romanian.{group}.tsv"));
    let [pairs, dev, control] = ["train", "dev", "control"].map(words);
    for (method, least) in [("lora", 0.25), ("full", 0.65)] {
        let files = ["--model", model.to_str().unwrap(), "--pairs", pairs.to_str().unwrap()];
        let groups = ["--dev", dev.to_str().unwrap(), "--control", control.to_str().unwrap(), "--dropout", "0"];
        let questions = ["--xquad", ".", "--languages", "en", "--layers", "1,2"];
        let options = ["--device", "cuda", "--method", method, "--shuffle", "off"];
        let summary = train(folder.path(), &[&files[..], &groups, &questions, &options].concat());
        let rows = summary["words"].as_array().unwrap();
        let row = rows.iter().find(|row| row["group"] == "train" && row["layer"] == "2").unwrap();
        let precision = number(&row["change"]["to_target"]["precision_at_1"]["after"]["value"]);
        let seconds = number(&summary["training_seconds"]);
        println!(
            "SmolLM2, {method} on {}: P@1 ro -> en of the words learnt {precision:.3}, {seconds:.1} s",
            summary["device"]
        );
        assert!(precision >= least, "{method}: {precision}, on the CPU it is at least {least}");
        assert!(!summary["collapse"]["collapsed"].as_bool().unwrap(), "{method}");
        // Untrained, transformers has 0.569 in f32; here the weights and states are bf16.
        let before = summary["questions_before"].as_array().unwrap();
        let accuracy = number(&before.iter().find(|row| row["layer"] == "1").unwrap()["accuracy_at_1"]);
        println!("SmolLM2, XQuAD en -> en at 1: accuracy@1 {accuracy:.4}, transformers 0.569");
        assert!((accuracy - 0.569).abs() <= noise(1190.0), "{accuracy}");
    }
}
