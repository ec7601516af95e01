//! `kiungo pilot` on the built-in model and words.

use assert_cmd::Command;
use kiungo::training::builtin;
use serde_json::Value;
use std::fs;

/// `train --blocks cka:N` takes the blocks that `pilot` names, of those that the loss reaches.
#[test]
fn adapters_go_into_the_most_important_blocks() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    let kiungo = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(folder.path()).args(arguments).args(["--device", "cpu", "--model", "in/model"]);
        command.args(["--pairs", "in/words.sw-en.tsv"]);
        command
    };
    let said = |command: &mut Command| {
        let output = command.assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let pilot: Value = serde_json::from_str(&said(&mut kiungo(&["pilot", "--json", "--top", "2"]))).unwrap();
    let train = ["train", "--target", "final", "--epochs", "1", "--blocks", "cka:2", "--output", "run"];
    let told = said(&mut kiungo(&train));
    let config = fs::read_to_string(folder.path().join("run/adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["layers_to_transform"], pilot["blocks"]);
    let importance = pilot["importance"].as_array().unwrap();
    let named: Vec<String> = pilot["blocks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|block| format!("{block} ({:.4})", importance[block.as_u64().unwrap() as usize].as_f64().unwrap()))
        .collect();
    assert!(told.contains(&format!("of 4 blocks that the loss reaches: {}.", named.join(", "))), "{told}");

    // Below a target the rest of the model is not read.
    said(&mut kiungo(&[
        "train", "--target", "2", "--layers", "2", "--epochs", "1", "--blocks", "cka:1", "--output", "low",
    ]));
    let output = kiungo(&["train", "--blocks", "cka:3", "--output", "more"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "error: --blocks cka:3: the loss at 2 reaches 2 blocks; ask for fewer, or raise --target";
    assert_eq!(error.lines().last().unwrap(), expected);
    assert!(!folder.path().join("more").exists());
}

#[test]
fn every_layer_is_shown_and_one_recommended() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    let pilot = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(folder.path()).args(["pilot", "--device", "cpu", "--model", "in/model"]);
        let output = command.args(["--pairs", "in/words.sw-en.tsv"]).args(arguments).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let found: Value = serde_json::from_str(&pilot(&["--json", "--top", "1"])).unwrap();
    let layers = found["layers"].as_array().unwrap();
    let importance = found["importance"].as_array().unwrap();
    assert_eq!(layers.len(), importance.len() + 2, "hidden(0) to hidden(L), and final");
    assert_eq!(found["blocks"].as_array().unwrap().len(), 1);
    let mrr = |row: &Value| row["dev"]["mrr"].as_f64().unwrap();
    let best = layers[1..].iter().map(mrr).fold(0.0, f64::max);
    let recommended = layers.iter().find(|row| row["layer"] == found["recommended"]).unwrap();
    assert_eq!(mrr(recommended), best);
    for row in layers {
        for mean in ["with_sink", "without_sink", "dev"] {
            let [both, mrr] = ["mrr_both_ways", "mrr"].map(|field| &row[mean][field]);
            let sum: f64 = both.as_array().unwrap().iter().map(|way| way.as_f64().unwrap()).sum();
            assert!((sum / 2.0 - mrr.as_f64().unwrap()).abs() < 1e-12, "{row}");
        }
        assert!(row["sink_norm"].as_f64().unwrap() > 0.0 && row["other_norm"].as_f64().unwrap() > 0.0, "{row}");
    }
    let text = pilot(&["--report", "pilot.html"]);
    assert!(text.contains("Recommended target") && text.contains("0.99998"), "{text}");
    assert!(text.contains("chance gives") && text.contains("with the first token in the mean"), "{text}");
    assert!(fs::read_to_string(folder.path().join("pilot.html")).unwrap().contains("<svg"));
}
