//! `kiungo pilot` on the built-in model and words.

use assert_cmd::Command;
use kiungo::training::builtin;
use serde_json::Value;
use std::fs;

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
        assert!(row["sink_norm"].as_f64().unwrap() > 0.0 && row["other_norm"].as_f64().unwrap() > 0.0, "{row}");
    }
    let text = pilot(&["--report", "pilot.html"]);
    assert!(text.contains("Recommended target") && text.contains("0.99998"), "{text}");
    assert!(fs::read_to_string(folder.path().join("pilot.html")).unwrap().contains("<svg"));
}
