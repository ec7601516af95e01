//! `kiungo embed` on the built-in model.

use crate::support::assert_close;
use assert_cmd::Command;
use kiungo::device::Device;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::{Bos, Tokenizer};
use kiungo::formats::weights::{Options, load};
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::llama::{Layer, Parts};
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::embed::embed;
use kiungo::training::builtin;
use std::fs;
use std::path::Path;

const TEXTS: &str = "maji\nwater is life\nmoto\n";

fn kiungo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(["embed", "--model", "in/model", "--device", "cpu"]).args(arguments);
    command
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    fs::write(folder.path().join("texts"), TEXTS).unwrap();
    folder
}

/// The library's own embeddings of the texts at hidden(1) and `final`, and the token ids.
fn expected(model: &Path) -> (Vec<Vec<f32>>, Vec<Vec<u32>>) {
    let config = Config::open(model).unwrap();
    let tokenizer = Tokenizer::open(model, &config).unwrap();
    let ids: Vec<Vec<u32>> = TEXTS.lines().map(|t| tokenizer.encode(t, Bos::Add, 64).unwrap().ids).collect();
    let parts = Parts { blocks: config.layers, final_norm: true, head: false };
    let options =
        Options { parts, base: Base::Bf16, compute: kiungo::device::DType::F32, device: &Device::Cpu, positions: 64 };
    let model = load(&Checkpoint::open(model).unwrap(), &config, options, |_| {}).unwrap();
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let rows = embed(&model, None, &texts, &[Layer::Hidden(1), Layer::Final], Pooling::MeanNoSink, |_| {}).unwrap();
    (rows.into_iter().map(|e| e.into_values()).collect(), ids)
}

#[test]
fn a_vector_a_text() {
    let folder = folder();
    let arguments = ["--texts", "texts", "--layers", "1,final", "--output", "out.safetensors"];
    let output = kiungo(folder.path(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = Checkpoint::open_file(&folder.path().join("out.safetensors")).unwrap();
    let (rows, ids) = expected(&folder.path().join("in/model"));
    let said = String::from_utf8_lossy(&output.stdout).to_string();
    let tokens = ids.concat().len();
    assert_eq!(said.trim(), format!("3 texts, {tokens} tokens, at 1, final to out.safetensors"));
    for (name, rows) in ["hidden.1", "hidden.final"].iter().zip(rows) {
        file.expect_shape(name, &[3, rows.len() / 3]).unwrap();
        assert_eq!(file.read_f32(name).unwrap(), rows, "{name}");
    }
}

/// The mean of a text's tokens without the first, at unit length, is its vector.
#[test]
fn a_state_a_token() {
    let folder = folder();
    let arguments = ["--texts", "texts", "--layers", "1", "--tokens", "--output", "out.safetensors"];
    kiungo(folder.path(), &arguments).assert().success();
    let file = Checkpoint::open_file(&folder.path().join("out.safetensors")).unwrap();
    let (rows, ids) = expected(&folder.path().join("in/model"));
    let integers = |name: &str| -> Vec<i64> {
        file.read_bytes(name).unwrap().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
    };
    assert_eq!(integers("ids"), ids.concat().iter().map(|&i| i64::from(i)).collect::<Vec<_>>());
    let offsets = integers("offsets");
    let states = file.read_f32("hidden.1").unwrap();
    let width = rows[0].len() / 3;
    for (i, row) in rows[0].chunks(width).enumerate() {
        let mut mean = vec![0.0f64; width];
        for token in offsets[i] as usize + 1..offsets[i + 1] as usize {
            mean.iter_mut().zip(&states[token * width..]).for_each(|(m, &s)| *m += f64::from(s));
        }
        let norm = mean.iter().map(|m| m * m).sum::<f64>().sqrt();
        mean.iter_mut().for_each(|m| *m /= norm);
        assert_close(&format!("text {i}"), row, &mean, 1e-6);
    }
}

#[test]
fn bad_texts_are_named_by_line() {
    let folder = folder();
    let refused = |text: &[u8], output: &str| {
        fs::write(folder.path().join("texts"), text).unwrap();
        let run = kiungo(folder.path(), &["--texts", "texts", "--output", output]).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        assert!(!folder.path().join("out").exists());
        let error = String::from_utf8(run.stderr).unwrap();
        error.lines().last().unwrap().to_string()
    };
    assert_eq!(refused(b"maji\n\nmoto\n", "out"), "error: texts:2: \"\" gives no tokens; leave it out");
    assert_eq!(refused(b"maji\nmo\xFFto\n", "out"), "error: texts:2: not UTF-8; save the file as UTF-8");
    assert_eq!(refused(b"", "out"), "error: texts: no texts; give one a line");
    assert_eq!(refused(b"maji", "none/out"), "error: none/out: the folder none does not exist");
}

#[test]
fn a_dry_run_says_what_would_be_held_and_writes_nothing() {
    let folder = folder();
    let arguments = ["--texts", "texts", "--layers", "1", "--base", "nf4", "--output", "out", "--dry-run"];
    let output = kiungo(folder.path(), &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success() && said.starts_with("reads 10 of 38 tensors, "), "{said}");
    assert!(said.contains("block 0, nf4") && said.contains("\nexpected peak: "), "{said}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn random_weights_are_loud_and_need_a_tokenizer() {
    let folder = folder();
    let run = |more: &[&str]| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        let arguments = ["embed", "--model", "random:in/model/config.json", "--texts", "texts", "--output", "out"];
        let output = command.current_dir(folder.path()).args(arguments).args(["--device", "cpu"]).args(more).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).to_string())
    };
    let (done, said) = run(&[]);
    assert!(!done && said.contains("it has no tokenizer: give --tokenizer DIR"), "{said}");
    let (done, said) = run(&["--tokenizer", "in/model"]);
    assert!(done && said.contains("WARNING: random:in/model/config.json has random weights"), "{said}");
    assert!(folder.path().join("out").exists());
}

/// NumPy's file of the same values, from lines of JSON.
#[test]
fn lines_of_json_to_an_npy_file() {
    let folder = folder();
    let json = "{\"id\": 1, \"text\": \"maji\"}\n{\"text\": \"water is life\"}\n{\"text\": \"moto\"}\n";
    fs::write(folder.path().join("texts.jsonl"), json).unwrap();
    let (rows, _) = expected(&folder.path().join("in/model"));
    for (layers, shape, rows) in [("1", "(3, 64)", rows[0].clone()), ("1,final", "(2, 3, 64)", rows.concat())] {
        kiungo(folder.path(), &["--texts", "texts.jsonl", "--layers", layers, "--output", "out.npy"])
            .assert()
            .success();
        let bytes = fs::read(folder.path().join("out.npy")).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        let hidden = rows.len() / 3 / layers.split(',').count();
        let shape = shape.replace("64", &hidden.to_string());
        let expected = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        assert_eq!((header.trim_end(), (10 + length) % 64, header.ends_with('\n')), (expected.as_str(), 0, true));
        let values: Vec<f32> =
            bytes[10 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(values, rows);
    }
    for (text, says) in [
        (
            "{\"text\": \"maji\"}\n{\"words\": \"moto\"}\n",
            "texts.jsonl:2: no field text; name the one that holds the text by --field",
        ),
        ("{\"text\": 3}\n", "texts.jsonl:1: the field text is no text"),
        ("maji\n", "texts.jsonl:1: not JSON: expected value at line 1 column 1"),
    ] {
        fs::write(folder.path().join("texts.jsonl"), text).unwrap();
        let output = kiungo(folder.path(), &["--texts", "texts.jsonl", "--output", "other.npy"]).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().last().unwrap(), format!("error: {says}"));
        assert!(!folder.path().join("other.npy").exists());
    }
    let output = kiungo(folder.path(), &["--texts", "texts", "--tokens", "--output", "other.npy"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--tokens: an .npy file has one array"));
}
