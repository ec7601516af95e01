//! `kiungo merge` and `kiungo merge-adapters`.

use crate::support;
use assert_cmd::Command;
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::peft::Adapter;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::llama::config::{Config, Projection};
use kiungo::llama::model::names;
use kiungo::training::builtin;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn kiungo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(arguments);
    command
}

/// The built-in model and adapters for it.
fn trained(bases: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    fs::write(folder.path().join("texts"), "maji\nwater is life\nfarasi\n").unwrap();
    for (i, base) in bases.iter().enumerate() {
        let mut train = kiungo(folder.path(), &["train", "--model", "in/model", "--pairs", "in/words.sw-en.tsv"]);
        train.args(["--epochs", "2", "--layers", "2", "--device", "cpu", "--base", base]);
        train.args(["--output", &format!("run-{i}"), "--seed", &i.to_string()]).assert().success();
    }
    folder
}

fn said(command: &mut Command) -> String {
    let output = command.assert().success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

/// The mean change in per cent that `merge` prints, at the layer where one is largest.
fn change(said: &str) -> f64 {
    let line = said.lines().find(|line| line.starts_with("largest change of a hidden state")).unwrap();
    line.split("the mean is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Fails unless the merged weight is that of float64, rounded once.
fn assert_merged(base: &Path, adapter: &Path, merged: &Checkpoint, block: usize, projection: Projection) {
    let config = Config::open(base).unwrap();
    let adapter = Adapter::open(adapter, &config).unwrap();
    let (factors, rank) = (&adapter.factors[&(block, projection)], adapter.config.rank);
    let name = names::linear(block, projection);
    let weight = Checkpoint::open(base).unwrap().read_f32(&name).unwrap();
    let input = config.shape(projection)[1];
    let exact: Vec<f64> = (0..weight.len())
        .map(|i| {
            let (row, column) = (i / input, i % input);
            let products =
                (0..rank).map(|k| f64::from(factors.b[row * rank + k]) * f64::from(factors.a[k * input + column]));
            f64::from(weight[i]) + f64::from(adapter.config.scale()) * products.sum::<f64>()
        })
        .collect();
    let found = Tensor::from_f32(&Device::Cpu, DType::Bf16, merged.read_f32(&name).unwrap(), &[weight.len()]).unwrap();
    support::assert_bf16(&name, &found, &exact);
}

#[test]
fn the_merged_model_computes_what_base_and_adapter_do() {
    let folder = trained(&["f32", "nf4"]);
    let at = |name: &str| folder.path().join(name);
    let merge = |arguments: &[&str]| {
        let mut command = kiungo(folder.path(), &["merge", "--model", "in/model", "--device", "cpu"]);
        command.args(arguments);
        command
    };
    // The built-in model is sharp: bf16 activations alone change its states by 2.3 % on average, and by 15 % at most.
    for (run, output) in [("run-0/adapter", "merged-0"), ("run-1/adapter", "merged-1")] {
        let said = said(&mut merge(&["--adapter", run, "--output", output]));
        assert!((0.1..2.0).contains(&change(&said)), "{said}");
        assert!(said.contains("(32 texts"), "{said}");
    }
    let said = said(&mut merge(&["--adapter", "run-0/adapter", "--output", "few", "--texts", "texts"]));
    assert!(said.contains("(3 texts"), "{said}");

    // The tensors are the base's, in bf16; those without an adapter are as they were.
    let (base, merged) = (Checkpoint::open(&at("in/model")).unwrap(), Checkpoint::open(&at("merged-0")).unwrap());
    let mut changed = 0;
    for (name, info) in base.tensors() {
        assert_eq!(
            (&merged.tensor(name).unwrap().shape, info.dtype),
            (&info.shape, merged.tensor(name).unwrap().dtype)
        );
        let same = base.read_bytes(name).unwrap() == merged.read_bytes(name).unwrap();
        let adapted = name.starts_with("model.layers.0.") || name.starts_with("model.layers.1.");
        assert_eq!(same, !adapted || name.contains("layernorm"), "{name}");
        changed += usize::from(!same);
    }
    assert_eq!((changed, merged.tensors().count()), (14, base.tensors().count()));
    for projection in [Projection::Q, Projection::V, Projection::Down] {
        assert_merged(&at("in/model"), &at("run-0/adapter"), &merged, 1, projection);
    }
    // It reads as the adapter was trained to, and knows nothing of one.
    let embed = kiungo(folder.path(), &["embed", "--model", "merged-1", "--texts", "texts", "--output", "e"])
        .args(["--device", "cpu"])
        .assert()
        .success();
    assert!(String::from_utf8(embed.get_output().stdout.clone()).unwrap().contains("at 2, final to e"));
}

/// A base that is 4-bit on disk is dequantised; `--base` cannot make other values of it.
#[test]
fn a_quantised_base_is_dequantised() {
    let folder = trained(&[]);
    let run = |arguments: &[&str]| said(&mut kiungo(folder.path(), arguments));
    run(&["quantize", "--model", "in/model", "--double", "--output", "nf4", "--device", "cpu"]);
    run(&[
        "train",
        "--model",
        "nf4",
        "--pairs",
        "in/words.sw-en.tsv",
        "--epochs",
        "2",
        "--layers",
        "2",
        "--output",
        "run",
        "--device",
        "cpu",
    ]);
    let merge = ["merge", "--model", "nf4", "--adapter", "run/adapter", "--device", "cpu", "--output"];
    let said = run(&[&merge[..], &["merged"]].concat());
    assert!((0.1..2.0).contains(&change(&said)), "{said}");
    let config = fs::read_to_string(folder.path().join("merged/config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
    let output = kiungo(folder.path(), &[&merge[..], &["other", "--base", "bf16"]].concat()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.trim(), "error: --base bf16: the files hold nf4-double weights; leave --base out");
    assert!(!folder.path().join("other").exists());
}

#[test]
fn adapters_become_one() {
    let folder = trained(&["f32", "f32"]);
    let merge = |arguments: &[&str]| {
        let mut command =
            kiungo(folder.path(), &["merge-adapters", "run-0/adapter", "run-1/adapter", "--model", "in/model"]);
        command.args(arguments);
        command
    };
    let fair = said(&mut merge(&["--output", "one"]));
    let numbers: Vec<f64> = ["average", "lora-fair"]
        .map(|method| {
            let line = fair.lines().find(|line| line.trim().starts_with(method)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        })
        .into();
    assert!(numbers[1] < numbers[0], "{fair}");
    let average = said(&mut merge(&["--output", "two", "--method", "average", "--weights", "1,3"]));
    assert!(!average.contains("lora-fair"), "{average}");
    let embed =
        ["embed", "--model", "in/model", "--texts", "texts", "--adapter", "one", "--output", "e", "--device", "cpu"];
    kiungo(folder.path(), &embed).assert().success();

    let refused = |command: &mut Command, says: &str| {
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.lines().last().unwrap().contains(says), "{error}");
        assert!(!folder.path().join("three").exists());
    };
    refused(&mut merge(&["--output", "one"]), "one: not empty (it holds ");
    refused(&mut merge(&["--output", "three", "--weights", "1"]), "one number above 0 for each of 2 adapters");
    let record = fs::read_to_string(folder.path().join("run-1/adapter/kiungo.json")).unwrap();
    let other = record.replacen("\"embedding\": \"", "\"embedding\": \"0", 1);
    assert_ne!(record, other);
    fs::write(folder.path().join("run-1/adapter/kiungo.json"), other).unwrap();
    refused(
        &mut merge(&["--output", "three"]),
        "run-1/adapter was trained on another base than run-0/adapter; adapters of one base are needed",
    );
}
