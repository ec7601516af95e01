//! Commands other than `train` on a disk that fills, breaks or may only be read: what they leave is whole or absent.

use crate::support::{faults, temporaries};
use assert_cmd::cargo::CommandCargoExt;
use kiungo::training::builtin;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each command with its output below `out`.
const COMMANDS: [&[&str]; 7] = [
    &["embed", "--model", "in/model", "--texts", "texts", "--layers", "1,2", "--output", "out/vectors.safetensors"],
    &["embed", "--model", "in/model", "--texts", "texts", "--layers", "1,2", "--output", "out/vectors.npy"],
    &["quantize", "--model", "in/model", "--output", "out/nf4"],
    &["random", "--model", "in/model/config.json", "--tokenizer", "in/model", "--output", "out/drawn"],
    &["merge", "--model", "in/model", "--adapter", "run/adapter", "--output", "out/merged"],
    &["merge-adapters", "run/adapter", "run/adapter", "--model", "in/model", "--output", "out/both"],
    &[
        "eval",
        "--model",
        "in/model",
        "--data",
        "in/xquad",
        "--layers",
        "1",
        "--ranks",
        "out/ranks.tsv",
        "--csv",
        "out/rows.csv",
    ],
];

/// Contents of the files below a folder, by path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn what_commands_leave_is_whole_or_absent() {
    let Some((_folder, library)) = faults() else { return };
    let folder = tempfile::tempdir().unwrap();
    builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    fs::write(folder.path().join("texts"), "maji\nwater is life\n").unwrap();
    let kiungo = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(folder.path()).args(arguments).env("CUDA_VISIBLE_DEVICES", "");
        command
    };
    let train = ["train", "--model", "in/model", "--pairs", "in/words.sw-en.tsv", "--epochs", "1", "--layers", "2"];
    assert!(kiungo(&train).args(["--output", "run"]).output().unwrap().status.success());
    let out = folder.path().join("out");
    for arguments in COMMANDS {
        let with_fault = |variables: &[(&str, &str)]| {
            let _ = fs::remove_dir_all(&out);
            fs::create_dir(&out).unwrap();
            let mut command = kiungo(arguments);
            command.env("LD_PRELOAD", &library).env("FAULT_FOLDER", &out).envs(variables.iter().copied());
            command.output().unwrap()
        };
        let count = folder.path().join("count");
        let output = with_fault(&[("FAULT_COUNT", count.to_str().unwrap())]);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let whole = files(&out);
        let calls: usize = fs::read_to_string(&count).unwrap().trim().parse().unwrap();
        assert!(calls > 0, "{arguments:?}: {calls} calls");
        let stride = if std::env::var_os("KIUNGO_TORTURE").is_some() { 1 } else { calls.div_ceil(3) };
        for (fault, says) in
            [("enospc", "No space left on device"), ("eio", "Input/output error"), ("erofs", "Read-only file system")]
        {
            for at in (1..=calls).step_by(stride) {
                let output = with_fault(&[("FAULT", fault), ("FAULT_AT", &at.to_string())]);
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                let what = format!("{arguments:?}, {fault} at call {at} of {calls}: {error}");
                if !output.status.success() {
                    assert_eq!(output.status.code(), Some(1), "{what}");
                    let last = error.lines().last().unwrap_or_default();
                    assert!(last.starts_with("error: ") && last.contains(says), "{what}");
                }
                // Removing a temporary may be what failed; it says by its name that it is none.
                let left = temporaries(&out);
                let named = files(&out).into_iter().filter(|(path, _)| !left.iter().any(|t| path.starts_with(t)));
                for (path, bytes) in named {
                    assert!(whole.get(&path) == Some(&bytes), "{what}: {} is not whole", path.display());
                }
            }
        }
    }
}
