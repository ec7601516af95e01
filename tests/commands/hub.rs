//! Models by name, from a hub on this machine.

use crate::support::hub::{Hub, MODEL};
use assert_cmd::Command;
use kiungo::device::Device;
use kiungo::formats::hub::ModelId;
use kiungo::formats::{random, tokenizer};
use kiungo::llama::config::Config;
use kiungo::ops::convert::Stored;
use kiungo::training::builtin;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A model in several files, at a hub and in a folder.
struct Case {
    folder: TempDir,
    hub: Hub,
}

/// Variables that would send requests elsewhere, or say who asks.
const OTHERS: [&str; 11] = [
    "HF_TOKEN",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let built_in = builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    let model = folder.path().join("model");
    let options = random::Options { seed: 3, stored: Stored::Bf16, shard_bytes: 100_000, device: &Device::Cpu };
    random::write(&model, &Config::open(&built_in.model).unwrap(), options, |_| {}).unwrap();
    tokenizer::copy(&built_in.model, &model).unwrap();
    fs::write(folder.path().join("texts"), "maji\nwater is life\n").unwrap();
    Case { hub: Hub::serve(&model), folder }
}

impl Case {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kiungo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        OTHERS.iter().for_each(|name| _ = command.env_remove(name));
        command.current_dir(self.folder.path()).env("HF_HOME", self.path("hf")).env("HF_ENDPOINT", &self.hub.endpoint);
        command.args(arguments).args(["--device", "cpu"]);
        command
    }

    fn embed(&self, model: &str, layers: &str, output: &str) -> Command {
        self.kiungo(&["embed", "--texts", "texts", "--model", model, "--layers", layers, "--output", output])
    }

    fn shards(&self) -> Vec<String> {
        let files = self.hub.state.lock().unwrap().files.keys().cloned().collect::<Vec<_>>();
        files.into_iter().filter(|file| file.ends_with(".safetensors")).collect()
    }

    fn snapshot(&self) -> PathBuf {
        let commit = self.hub.state.lock().unwrap().commit.clone();
        self.path("hf/hub/models--org--tiny/snapshots").join(commit)
    }

    fn same(&self, a: &str, b: &str) {
        assert!(fs::read(self.path(a)).unwrap() == fs::read(self.path(b)).unwrap(), "{a} and {b} differ");
    }
}

/// Fails unless the command ends with exit code 1 and this last line.
#[track_caller]
fn refused(command: &mut Command, expected: &str) {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().last().unwrap(), format!("error: {expected}"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn only_files_that_are_needed_are_fetched_and_never_twice() {
    let case = case();
    case.embed("model", "1", "local-1").assert().success();
    case.embed("model", "final", "local").assert().success();
    case.embed(MODEL, "1", "hub-1").assert().success();
    case.same("local-1", "hub-1");
    let (first, shards) = (case.hub.sent(), case.shards());
    let is_shard = |(file, _): &&(String, usize)| file.ends_with(".safetensors");
    let some = first.iter().filter(is_shard).count();
    assert!(some > 0 && some < shards.len() - 1, "{first:?}");

    // As huggingface_hub has it: links to what is named by its hash, and the commit of the branch.
    assert!(fs::symlink_metadata(case.snapshot().join("config.json")).unwrap().is_symlink());
    let commit = fs::read_to_string(case.path("hf/hub/models--org--tiny/refs/main")).unwrap();
    assert_eq!(commit, case.hub.state.lock().unwrap().commit);

    case.embed(MODEL, "final", "hub").assert().success();
    case.same("local", "hub");
    let second = case.hub.sent();
    assert_eq!(second.len(), shards.len() - some, "{second:?}");
    assert!(first.iter().all(|sent| !second.contains(sent)));

    // Another commit of the same files, as after a change of the README.
    case.hub.state.lock().unwrap().commit = "beef".repeat(10);
    case.embed(MODEL, "final", "hub").assert().success();
    case.same("local", "hub");
    assert_eq!(case.hub.sent(), []);

    let before = case.hub.state.lock().unwrap().requests;
    case.embed(MODEL, "final", "offline").env("HF_HUB_OFFLINE", "1").assert().success();
    case.same("local", "offline");
    assert_eq!(case.hub.state.lock().unwrap().requests, before);
    let mut unreachable = case.embed(MODEL, "final", "unreachable");
    let output = unreachable.env("HF_ENDPOINT", "http://127.0.0.1:1").assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(said.contains("note: org/tiny: http://127.0.0.1:1 cannot be reached ("), "{said}");
    case.same("local", "unreachable");
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let case = case();
    case.embed("model", "1", "local").assert().success();
    case.hub.state.lock().unwrap().breaks = vec![1000, 0, 2000];
    case.embed(MODEL, "1", "hub").assert().success();
    case.same("local", "hub");
    let shard = &case.shards()[0];
    let begins: Vec<usize> = case.hub.sent().into_iter().filter(|(file, _)| file == shard).map(|(_, at)| at).collect();
    assert_eq!(begins, [0, 1000, 1000, 3000]);
}

#[test]
fn a_download_that_was_given_up_goes_on_in_the_next_run() {
    let case = case();
    case.embed("model", "1", "local").assert().success();
    case.hub.state.lock().unwrap().breaks = vec![1000, 0, 0, 0, 0];
    let output = case.embed(MODEL, "1", "hub").output().unwrap();
    let (error, shard) = (String::from_utf8(output.stderr).unwrap(), &case.shards()[0]);
    let last = error.lines().last().unwrap();
    assert!(last.starts_with(&format!("error: {MODEL}: {shard}: ")), "{error}");
    assert!(last.ends_with("5 times in a row; give the command again: it goes on where it stopped"), "{error}");
    case.hub.sent();
    case.embed(MODEL, "1", "hub").assert().success();
    case.same("local", "hub");
    assert_eq!(case.hub.sent()[0], (shard.clone(), 1000));

    // Killed between the last byte and its name: there is nothing to go on with, and the file is fetched anew.
    let link = case.snapshot().join(shard);
    let blob = link.canonicalize().unwrap();
    fs::remove_file(&link).unwrap();
    fs::rename(&blob, blob.with_extension("part")).unwrap();
    case.embed(MODEL, "1", "hub").assert().success();
    case.same("local", "hub");
    assert_eq!(case.hub.sent(), [(shard.clone(), 0)]);
}

#[test]
fn a_renamed_model_and_a_server_without_ranges() {
    let case = case();
    case.embed("model", "1", "local").assert().success();
    let mut state = case.hub.state.lock().unwrap();
    (state.renamed, state.no_ranges, state.breaks) = (true, true, vec![1000]);
    drop(state);
    case.embed(MODEL, "1", "hub").assert().success();
    case.same("local", "hub");
    let shard = &case.shards()[0];
    // The second try asks for the rest, gets all, and begins anew.
    assert_eq!(case.hub.sent().iter().filter(|(file, _)| file == shard).count(), 2);
}

/// A connection that stays open without a byte would hold a run for ever.
#[test]
fn a_hub_that_falls_silent_is_asked_again_and_given_up_in_the_end() {
    let case = case();
    let embed = |output: &str| {
        let mut command = case.embed(MODEL, "1", output);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "0.4");
        command
    };
    let silent = "the hub has been silent for 0.4 s";
    case.hub.state.lock().unwrap().mute = true;
    let output = embed("hub").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("{MODEL}: {} cannot be reached: {silent}; see to", case.hub.endpoint)), "{error}");

    let shard = &case.shards()[0];
    let mut state = case.hub.state.lock().unwrap();
    (state.mute, state.stalls) = (false, vec![1000, 0, 0, 0, 0]);
    drop(state);
    let says = format!("{silent}, 5 times in a row; give the command again: it goes on where it stopped");
    refused(&mut embed("hub"), &format!("{MODEL}: {shard}: {says}"));
    case.hub.sent();

    case.hub.state.lock().unwrap().stalls = vec![1000, 500];
    embed("hub").assert().success();
    let begins: Vec<usize> = case.hub.sent().into_iter().filter(|(file, _)| file == shard).map(|(_, at)| at).collect();
    assert_eq!(begins, [1000, 2000, 2500]);
    case.embed("model", "1", "local").assert().success();
    case.same("local", "hub");

    let wrong = "HF_HUB_DOWNLOAD_TIMEOUT is \"soon\", expected a number of seconds above 0";
    refused(embed("hub").env("HF_HUB_DOWNLOAD_TIMEOUT", "soon"), wrong);
}

/// The doctor fetches settings, and no weights.
#[test]
fn doctor_looks_at_a_model_by_its_name() {
    let case = case();
    let doctor = |model: &str| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        OTHERS.iter().for_each(|name| _ = command.env_remove(name));
        command.current_dir(case.folder.path()).env("HF_HOME", case.path("hf")).env("HF_ENDPOINT", &case.hub.endpoint);
        let output = command.args(["doctor", "--model", model]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let place = said.lines().position(|line| line.split_whitespace().nth(1) == Some("model")).unwrap();
        said.lines().skip(place).take(2).collect::<Vec<_>>().join("\n")
    };
    let said = doctor(MODEL);
    let all = case.shards().len();
    let expected = format!("; none of {all} files with weights is here yet, each is fetched when it is needed");
    assert!(said.starts_with("ok ") && said.contains(&expected), "{said}");
    assert!(case.hub.sent().iter().all(|(file, _)| !file.ends_with(".safetensors")));
    case.embed(MODEL, "1", "hub").assert().success();
    let said = doctor(MODEL);
    assert!(said.starts_with("ok ") && said.contains(&format!(" of {all} files with weights ")), "{said}");
    case.embed(MODEL, "final", "hub").assert().success();
    assert_eq!(doctor(MODEL).lines().next(), doctor("model").lines().next());
    let said = doctor("org/other");
    assert!(said.starts_with("problem ") && said.contains("no such model at"), "{said}");
}

#[test]
fn a_file_that_is_not_what_was_announced_is_removed() {
    let case = case();
    case.hub.state.lock().unwrap().damaged = true;
    let shard = case.shards()[0].clone();
    let says = "what arrived has not the SHA-256 that the hub announces, and was removed; give the command again";
    refused(&mut case.embed(MODEL, "1", "hub"), &format!("{MODEL}: {shard}: {says}"));
    assert!(fs::symlink_metadata(case.snapshot().join(shard)).is_err());
    case.hub.state.lock().unwrap().damaged = false;
    case.embed(MODEL, "1", "hub").assert().success();
}

#[test]
fn a_gated_model_says_how_to_get_access() {
    let case = case();
    case.hub.state.lock().unwrap().gate = Some("right".into());
    let (at, tokens) = (format!("{}/{MODEL}", case.hub.endpoint), format!("{}/settings/tokens", case.hub.endpoint));
    let embed = || case.embed(MODEL, "1", "hub");
    refused(
        &mut embed(),
        &format!(
            "{MODEL} is gated: ask for access at {at} while you are logged in there, make a token at {tokens}, and set HF_TOKEN to it (or run: hf auth login)"
        ),
    );
    refused(
        embed().env("HF_TOKEN", "wrong"),
        &format!(
            "{MODEL} is gated: the token in HF_TOKEN is not valid; make one at {tokens}, and ask for access at {at}"
        ),
    );
    refused(
        embed().env("HF_TOKEN", "no access"),
        &format!(
            "{MODEL} is gated: the account whose token is in HF_TOKEN has no access yet; ask for it at {at}, and see to it that the token may read gated repositories"
        ),
    );
    embed().env("HF_TOKEN", "right").assert().success();
    fs::remove_dir_all(case.path("hf")).unwrap();
    fs::create_dir(case.path("hf")).unwrap();
    fs::write(case.path("hf/token"), "right\n").unwrap();
    embed().assert().success();
}

#[test]
fn models_that_cannot_be_had() {
    let case = case();
    let (endpoint, cache) = (&case.hub.endpoint, case.path("hf/hub"));
    refused(
        &mut case.embed("org/other", "1", "hub"),
        &format!(
            "org/other: no folder here, and no such model at {endpoint}, or a private one; see to the spelling, or set HF_TOKEN if it is private"
        ),
    );
    refused(
        case.embed(MODEL, "1", "hub").env("HF_HUB_OFFLINE", "1"),
        &format!(
            "{MODEL}: config.json is not in the cache ({}), and HF_HUB_OFFLINE is set; unset it, or run once where there is a network",
            cache.display()
        ),
    );
    let output = case.embed(MODEL, "1", "hub").env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: org/tiny: http://127.0.0.1:1 cannot be reached: "), "{error}");
    case.hub.state.lock().unwrap().files.retain(|name, _| !name.contains("safetensors"));
    refused(
        &mut case.embed(MODEL, "1", "hub"),
        "org/tiny: no *.safetensors file; take a model that has some, or convert it with transformers' save_pretrained",
    );
}

/// A dry run fetches no weights; an adapter that was trained on some of the files fits the whole model in a folder.
#[test]
fn training_by_name() {
    let case = case();
    let mut train = case.kiungo(&["train", "--model", MODEL, "--pairs", "in/words.sw-en.tsv", "--epochs", "1"]);
    train.args(["--layers", "2", "--blocks", "0,1", "--output", "run"]);
    let mut dry =
        case.kiungo(&["train", "--model", MODEL, "--pairs", "in/words.sw-en.tsv", "--layers", "2", "--dry-run"]);
    let output = dry.assert().success();
    let said = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(said.contains("fetches ") && said.contains("expected peak: "), "{said}");
    let no_weights = |sent: &[(String, usize)]| sent.iter().all(|(file, _)| !file.ends_with(".safetensors"));
    assert!(no_weights(&case.hub.sent()));
    train.assert().success();
    assert!(!no_weights(&case.hub.sent()));
    let record = fs::read_to_string(case.path("run/adapter/kiungo.json")).unwrap();
    assert!(record.contains("\"base_model\": \"org/tiny\""), "{record}");
    for (model, output) in [("model", "local"), (MODEL, "hub")] {
        case.embed(model, "2,final", output).args(["--adapter", "run/adapter"]).assert().success();
    }
    case.same("local", "hub");
}

#[test]
fn names_and_paths() {
    let id = |text: &str| ModelId::parse(text).map(|id| (id.repository, id.revision));
    let expected = |a: &str, b: &str| Some((a.to_string(), b.to_string()));
    assert_eq!(id("Lugha-Llama/Lugha-Llama-8B-wura"), expected("Lugha-Llama/Lugha-Llama-8B-wura", "main"));
    assert_eq!(id("org/name.v1@refs/pr/1"), expected("org/name.v1", "refs/pr/1"));
    for path in
        ["model", "./model", "/a/b", "../model", "a/b/c", "a/..", "~/model", "a b/c", "a/b@", "a/b@../c", "a//b"]
    {
        assert_eq!(id(path), None, "{path}");
    }
}
