//! A GPU whose memory another program holds: this process, which takes it all. Not beside other tests: run where
//! `KIUNGO_FILL_GPU` is set.

use crate::support::{path, temporaries};
use assert_cmd::cargo::CommandCargoExt;
use kiungo::device::{DType, Device, Gpu, Tensor};
use kiungo::training::builtin;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn gpu() -> Option<Gpu> {
    std::env::var_os("KIUNGO_FILL_GPU")?;
    match Device::cuda(0).unwrap() {
        Device::Cuda(gpu) => Some(gpu),
        Device::Cpu => None,
    }
}

/// Takes memory until so much is left.
fn fill(gpu: &Gpu, left: usize) -> Vec<Tensor> {
    let device = Device::Cuda(gpu.clone());
    let mut taken = vec![];
    let mut piece = 16 << 30;
    while piece >= 1 << 20 {
        let free = gpu.memory().unwrap().free;
        if free < left + piece {
            piece /= 2;
            continue;
        }
        match Tensor::uninitialized(&device, DType::U8, &[piece]) {
            Ok(tensor) => taken.push(tensor),
            Err(_) => piece /= 2,
        }
    }
    taken
}

/// A folder with the built-in tokenizer.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    folder
}

/// Adapters of Llama-3-8B's shape, from the run's last checkpoint on.
const LORA: [&str; 8] = ["--base", "nf4", "--layers", "2", "--projections", "q,v", "--lr", "1e-5"];

/// Trains at Llama-3-8B's shape on Romanian words.
fn train(folder: &Path, run: &str, more: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).args(["train", "--model", "random:llama-3-8b", "--tokenizer", "in/model"]);
    command.args(["--epochs", "600", "--device", "cuda", "--resume", run]);
    for (option, group) in [("--pairs", "train"), ("--dev", "dev"), ("--control", "control")] {
        command.arg(option).arg(path(&format!("data/wold/romanian.{group}.tsv")));
    }
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run ends in: its adapters and its metrics, without times.
fn result(folder: &Path) -> (Vec<u8>, Vec<Value>) {
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("milliseconds");
        line
    };
    (fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap(), metrics.lines().map(timeless).collect())
}

#[test]
fn what_has_no_room_beside_another_program_is_refused_before_loading() {
    let Some(gpu) = gpu() else { return };
    let taken = fill(&gpu, 2 << 30);
    let folder = folder();
    let output = Command::cargo_bin("kiungo").unwrap().arg("doctor").current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.contains("GPU memory")).unwrap();
    println!("{line}");
    assert!(line.contains(" GB held by other programs and the driver"), "{line}");

    let begin = Instant::now();
    let output = train(folder.path(), "refused", &["--method", "full", "--target", "final"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    println!("{error}, after {:.1?}", begin.elapsed());
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("error: ") && error.contains("held by other programs and the driver"), "{error}");
    assert!(!folder.path().join("refused/metrics.jsonl").exists());
    drop(taken);
}

/// Memory that another program takes while a run is under way ends it with what was asked for and what was free, and a
/// checkpoint from which it goes on to the bytes of a run that had the memory.
#[test]
fn a_run_whose_memory_another_program_takes_is_saved() {
    let Some(gpu) = gpu() else { return };
    let folder = folder();
    let output = train(folder.path(), "reference", &LORA).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut child = train(folder.path(), "run", &[&LORA[..], &["--save-every", "600m"]].concat()).spawn().unwrap();
    let begin = Instant::now();
    while !fs::read_to_string(folder.path().join("run/metrics.jsonl")).is_ok_and(|text| text.lines().count() > 20) {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "it does not train");
        std::thread::sleep(Duration::from_millis(1));
    }
    let taken = fill(&gpu, 0);
    let output = child.wait_with_output().unwrap();
    drop(taken);
    let error = String::from_utf8(output.stderr).unwrap();
    println!("{error}");
    assert_eq!(output.status.code(), Some(1), "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("out of GPU memory: "), "{error}");
    assert!(last.contains("; the last good checkpoint is ") && last.contains("/checkpoints/step-"), "{error}");

    let output = train(folder.path(), "run", &[]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.contains("resuming after step "), "{error}");
    let ([run, reference], left) =
        (["run", "reference"].map(|name| folder.path().join(name)), temporaries(folder.path()));
    assert!(result(&run) == result(&reference), "other bytes");
    assert!(left.is_empty(), "{left:?}");
}
