//! Bad input to the commands: each is one line that names the file, the place and the remedy, and leaves nothing behind.

use assert_cmd::Command;
use kiungo::commands::{Blocks, SaveEvery};
use kiungo::training::builtin::{self, Builtin};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

struct Case {
    folder: TempDir,
    input: Builtin,
}

fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let input = builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    Case { folder, input }
}

impl Case {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// `kiungo train` on the built-in files, with some arguments more.
    fn train(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(self.folder.path()).args(["train", "--device", "cpu", "--model"]).arg(&self.input.model);
        command.arg("--pairs").arg(&self.input.pairs).arg("--output").arg(self.path("run")).args(arguments);
        command
    }

    /// Fails unless the command ends with exit code 1 (2 for its arguments), this one line, and no run folder.
    #[track_caller]
    fn refused(&self, command: &mut Command, expected: &str) {
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).replace(&self.folder.path().display().to_string(), "DIR");
        let error = error.lines().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("no error in:\n{error}"));
        assert_eq!(error, format!("error: {expected}"));
        assert!(matches!(output.status.code(), Some(1 | 2)));
        assert!(!Path::new(&self.path("run")).exists(), "a run folder was left behind");
    }
}

#[test]
fn a_gpu_that_is_not_there() {
    let case = case();
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(case.folder.path()).args(["train", "--device", "cuda", "--output", "run"]);
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: no CUDA device: ") || last.starts_with("error: this build has no CUDA kernels"));
    assert_eq!(output.status.code(), Some(1));
    assert!(!case.folder.path().join("run").exists());
}

#[test]
fn an_output_folder_that_holds_something() {
    let case = case();
    fs::create_dir(case.path("run")).unwrap();
    fs::write(case.path("run/file"), "mine").unwrap();
    let output = case.train(&[]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).replace(&case.folder.path().display().to_string(), "DIR");
    assert_eq!(error.trim(), "error: DIR/run: not empty (it holds file); name a new folder, or empty this one");
    assert_eq!(fs::read(case.path("run/file")).unwrap(), b"mine");
}

#[test]
fn combinations_that_cannot_learn() {
    let case = case();
    case.refused(
        &mut case.train(&["--blocks", "2"]),
        "no adapter can learn: the loss reads the state after 2 blocks, and the adapters sit in block 2. Use --target 3 or higher, or blocks below 2",
    );
    case.refused(
        &mut case.train(&["--method", "full", "--base", "nf4"]),
        "--method full cannot train a nf4 base: 4-bit codes have no gradient. Use --base bf16 or f32",
    );
    case.refused(&mut case.train(&["--layers", "9"]), "--layers 9: the model has 4 blocks");
    case.refused(&mut case.train(&["--lr", "0"]), "--lr 0: expected a number above 0");
    case.refused(
        &mut case.train(&["--dropout", "1"]),
        "--dropout 1: expected a share from 0 up to, but not including, 1",
    );
}

#[test]
fn words_that_are_no_choice() {
    let case = case();
    for (argument, word, says) in [
        ("--base", "int8", "\"int8\" is no base precision: choose one of f32, bf16, nf4, nf4-double"),
        ("--target", "last", "\"last\" is no layer: give a number of blocks (2 is the state after two) or `final`"),
        (
            "--blocks",
            "2..2",
            "\"2..2\" is no set of blocks: give a half-open range (0..2 is blocks 0 and 1), a list (0,3), all, or cka:N",
        ),
    ] {
        let output = case.train(&[argument, word]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(says), "{error}");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn pair_files_that_cannot_be_used() {
    let case = case();
    let pairs = |text: &[u8]| {
        fs::write(case.path("pairs.tsv"), text).unwrap();
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.args(["train", "--device", "cpu", "--model"]).arg(&case.input.model);
        command.arg("--pairs").arg(case.path("pairs.tsv")).arg("--output").arg(case.path("run"));
        command
    };
    for (text, place) in [
        (&b"sw\ten\nmaji\twater\nmoto\n"[..], "DIR/pairs.tsv:3: "),
        (b"sw\ten\nmaji\t \n", "DIR/pairs.tsv:2: "),
        (b"sw\ten\nmaji\twat\xFFer\n", "DIR/pairs.tsv:2: "),
    ] {
        let output = pairs(text).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).replace(&case.folder.path().display().to_string(), "DIR");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(&format!("error: {place}")), "{error}");
    }
    let few: String =
        ["sw\ten\n"].into_iter().map(String::from).chain((0..9).map(|i| format!("neno{i}\tword{i}\n"))).collect();
    case.refused(
        &mut pairs(few.as_bytes()),
        "DIR/pairs.tsv: 8 pairs to learn from, fewer than a batch of 64; add pairs, or lower --batch",
    );
}

#[test]
fn questions_that_are_not_squad_json() {
    let case = case();
    fs::create_dir(case.path("xquad")).unwrap();
    fs::write(case.path("xquad/xquad.en.json"), "{\"data\": 3}").unwrap();
    let output = case.train(&["--xquad", &case.path("xquad")]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).replace(&case.folder.path().display().to_string(), "DIR");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("error: DIR/xquad/xquad.en.json: "), "{error}");
}

#[test]
fn an_adapter_for_another_base() {
    let case = case();
    let run = case.path("run");
    case.train(&["--epochs", "1", "--layers", "2"]).assert().success();
    let other = builtin::write_to(&case.folder.path().join("other"), builtin::SEED + 1).unwrap();
    let mut eval = Command::cargo_bin("kiungo").unwrap();
    eval.args(["eval", "--device", "cpu", "--adapter", &format!("{run}/adapter"), "--model"]).arg(&other.model);
    let output = eval.arg("--xquad").arg(&other.xquad).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).replace(&case.folder.path().display().to_string(), "DIR");
    let last = error.lines().last().unwrap();
    let expected = "error: DIR/run/adapter/kiungo.json: trained on DIR/in/model, and DIR/other/model has other weights; give the base it was trained on";
    assert_eq!(last, expected);
}

#[test]
fn intervals_are_steps_or_minutes() {
    let every = |s: &str| s.parse::<SaveEvery>();
    assert_eq!(every("100"), Ok(SaveEvery::Steps(100)));
    assert_eq!(every("0.5m"), Ok(SaveEvery::Minutes(0.5)));
    assert_eq!(every("off"), Ok(SaveEvery::Off));
    for wrong in ["", "0", "0m", "-1m", "m", "nanm", "1h", "1.5"] {
        assert!(every(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn blocks_are_half_open() {
    let blocks = |s: &str| s.parse::<Blocks>();
    assert_eq!(blocks("0..2"), Ok(Blocks::Some(vec![0, 1])));
    assert_eq!(blocks("3,0,3"), Ok(Blocks::Some(vec![0, 3])));
    assert_eq!(blocks("2"), Ok(Blocks::Some(vec![2])));
    assert_eq!(blocks("all"), Ok(Blocks::All));
    for wrong in ["", "2..2", "x", "0...2", "-1"] {
        assert!(blocks(wrong).is_err(), "{wrong}");
    }
}
