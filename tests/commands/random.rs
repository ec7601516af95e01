//! `kiungo random`: a checkpoint to measure with, which every other command reads.

use assert_cmd::Command;
use kiungo::training::builtin;
use std::fs;
use std::path::Path;

fn kiungo(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    let output = command.current_dir(folder).args(arguments).args(["--device", "cpu"]).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).to_string())
}

#[test]
fn what_is_written_is_what_a_random_model_has() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    fs::write(folder.path().join("texts"), "maji\nwater is life\n").unwrap();
    let config = "in/model/config.json";
    let write = ["random", "--model", config, "--output", "made", "--shard-gb", "1e-4", "--tokenizer", "in/model"];
    let (done, said) = kiungo(folder.path(), &write);
    assert!(done, "{said}");
    assert!(fs::read_dir(folder.path().join("made")).unwrap().count() > 5, "one shard");
    for (model, output) in [("made", "a"), ("random:in/model/config.json", "b")] {
        let embed = ["embed", "--model", model, "--tokenizer", "in/model", "--texts", "texts", "--output", output];
        let (done, said) = kiungo(folder.path(), &embed);
        assert!(done, "{said}");
    }
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("a") == read("b"));
    let (done, said) = kiungo(folder.path(), &write);
    assert!(!done && said.contains("made: not empty"), "{said}");
}

/// Weights that know nothing train as others do, for benchmarks; what was drawn is not saved.
#[test]
fn random_weights_train() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    let random = ["train", "--model", "random:in/model/config.json", "--pairs", "in/words.sw-en.tsv", "--epochs", "1"];
    for (method, saved) in [("lora", true), ("full", false)] {
        let train = [&random[..], &["--layers", "2", "--method", method, "--output", method]].concat();
        let (done, said) = kiungo(folder.path(), &[&train[..], &["--tokenizer", "in/model"]].concat());
        assert!(done, "{said}");
        assert!(
            said.contains("WARNING: random:in/model/config.json has random weights: for benchmarks alone"),
            "{said}"
        );
        assert_eq!(folder.path().join(method).join("adapter").exists(), saved);
        assert!(!folder.path().join(method).join("model").exists());
    }
    let (done, said) = kiungo(folder.path(), &random);
    assert!(!done && said.contains("random:in/model/config.json: it has no tokenizer: give --tokenizer DIR"), "{said}");
}

#[test]
fn a_name_that_nobody_knows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (done, said) = kiungo(folder.path(), &["random", "--model", "llama-9", "--output", "made"]);
    assert!(!done && said.contains("\"llama-9\" is neither llama-3-8b nor a config.json"), "{said}");
}
