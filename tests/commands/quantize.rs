//! `kiungo quantize`: the bytes that transformers and bitsandbytes save, and what is read back.

use crate::support;
use assert_cmd::Command;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::llama::config::Config;
use kiungo::training::builtin;
use std::fs;
use std::path::Path;

fn kiungo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(arguments).args(["--device", "cpu"]);
    command
}

#[test]
fn the_bytes_are_those_of_bitsandbytes() {
    let folder = tempfile::tempdir().unwrap();
    let base = support::path("golden/tiny-llama");
    for (kind, double) in [("plain", None), ("double", Some("--double"))] {
        let mut command = kiungo(folder.path(), &["quantize", "--output", kind]);
        command.arg("--model").arg(&base).args(double).assert().success();
        let found = Checkpoint::open(&folder.path().join(kind)).unwrap();
        let theirs = Checkpoint::open(&support::path("golden/nf4").join(kind)).unwrap();
        let mut compared = 0;
        for (name, info) in theirs.tensors().filter(|(name, _)| !name.ends_with(".dequantized")) {
            assert_eq!(
                (found.tensor(name).unwrap().dtype, &found.tensor(name).unwrap().shape),
                (info.dtype, &info.shape)
            );
            assert!(found.read_bytes(name).unwrap() == theirs.read_bytes(name).unwrap(), "{kind}: {name}");
            compared += 1;
        }
        assert_eq!(compared, if double.is_some() { 12 } else { 8 });
        let config = Config::open(&folder.path().join(kind)).unwrap();
        assert_eq!(config.quantization.unwrap().double, double.is_some());
    }
}

/// The folder computes what quantising while reading does.
#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    fs::write(folder.path().join("texts"), "maji\nwater is life\n").unwrap();
    kiungo(folder.path(), &["quantize", "--model", "in/model", "--output", "nf4"]).assert().success();
    let embed = ["embed", "--texts", "texts", "--layers", "2,final", "--base", "nf4"];
    for (model, output) in [("in/model", "a"), ("nf4", "b")] {
        kiungo(folder.path(), &embed).args(["--model", model, "--output", output]).assert().success();
    }
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("a") == read("b"));
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    kiungo(folder.path(), &["quantize", "--model", "in/model", "--output", "nf4"]).assert().success();
    for (model, output, says) in [
        ("nf4", "again", "error: nf4: quantised already"),
        ("in/model", "nf4", "error: nf4: not empty (it holds "),
        ("none", "again", "error: none/config.json: "),
    ] {
        let run = kiungo(folder.path(), &["quantize", "--model", model, "--output", output]).output().unwrap();
        let error = String::from_utf8(run.stderr).unwrap();
        assert!(error.lines().last().unwrap().starts_with(says), "{error}");
        assert_eq!(run.status.code(), Some(1));
        assert!(!folder.path().join("again").exists());
    }
}
