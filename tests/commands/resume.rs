//! Runs that are stopped, killed, or cannot write: what stands afterwards is whole, and going on ends in the bytes of a
//! run that nothing happened to.

use crate::support::{faults, temporaries};
use assert_cmd::cargo::CommandCargoExt;
use kiungo::device::{Device, cuda};
use kiungo::training::builtin::{self, Builtin};
use rand::Rng;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Steps of the run: five epochs of two.
const STEPS: usize = 10;

struct Case {
    folder: TempDir,
    input: Builtin,
    pairs: PathBuf,
    method: &'static str,
    device: &'static str,
}

/// The CPU, and the GPU where there is one.
fn devices() -> Vec<&'static str> {
    let gpu = cuda::has_kernels() && Device::cuda(0).is_ok() && !crate::support::under_sanitizer();
    ["cpu"].into_iter().chain(gpu.then_some("cuda")).collect()
}

impl Case {
    fn new(method: &'static str) -> Case {
        Case::on("cpu", method)
    }

    fn on(device: &'static str, method: &'static str) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let input = builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
        let pairs = folder.path().join("few words.tsv");
        let words = fs::read_to_string(&input.pairs).unwrap();
        fs::write(&pairs, words.lines().take(81).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        Case { folder, input, pairs, method, device }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains in a folder, from its last checkpoint on if it has one.
    fn train(&self, run: &str, more: &[&str]) -> Command {
        self.train_for("5", run, more)
    }

    /// The same for so many epochs.
    fn train_for(&self, epochs: &str, run: &str, more: &[&str]) -> Command {
        let recipe = ["--batch", "32", "--epochs", epochs, "--warmup", "2", "--layers", "2"];
        self.train_by(run, &[&recipe, more].concat())
    }

    /// The same by another recipe.
    fn train_by(&self, run: &str, recipe: &[&str]) -> Command {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(self.folder.path()).args([
            "train",
            "--device",
            self.device,
            "--method",
            self.method,
            "--model",
        ]);
        command.arg(&self.input.model).arg("--pairs").arg(&self.pairs).arg("--resume").arg(self.path(run));
        command.args(recipe);
        command.env("RAYON_NUM_THREADS", "2").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The bytes that a run ends in: what was learned, the losses of all steps, and the readings of all epochs.
    fn result(&self, run: &str) -> (Vec<u8>, Vec<String>) {
        let weights = match self.method {
            "lora" => "adapter/adapter_model.safetensors",
            _ => "model/model.safetensors",
        };
        let metrics = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let timeless = |line: &str| {
            let mut line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
            line.remove("milliseconds");
            serde_json::Value::Object(line).to_string()
        };
        (fs::read(self.path(run).join(weights)).unwrap(), metrics.lines().map(timeless).collect())
    }

    /// Fails unless the run, gone on with to its end, is as the reference, and nothing temporary is left.
    #[track_caller]
    fn ends_as_the_reference(&self, run: &str, what: &str) {
        let output = self.train(run, &["--save-every", "5"]).output().unwrap();
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        let (found, expected) = (self.result(run), self.result("reference"));
        assert_eq!(found.1, expected.1, "{what}: metrics");
        assert!(found.0 == expected.0, "{what}: other weights");
        let left = temporaries(&self.path(run));
        assert!(left.is_empty(), "{what}: left behind: {left:?}");
    }

    /// A run that nothing happens to.
    fn reference(&self) {
        let output = self.train("reference", &["--save-every", "5"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let steps = self
            .result("reference")
            .1
            .iter()
            .filter(|line| line.contains("loss\":") && line.contains("\"step\""))
            .count();
        assert_eq!(steps, STEPS);
    }

    fn last_error(&self, output: &Output) -> String {
        let error = stderr(output).replace(&self.folder.path().display().to_string(), "DIR");
        error.lines().last().unwrap_or_default().to_string()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How often chance is tried: 20, or as often as `KIUNGO_TORTURE` says.
fn tries() -> usize {
    std::env::var("KIUNGO_TORTURE").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// Runs the training with one of its calls failing.
fn with_fault(case: &Case, library: &Path, run: &str, fault: &str, at: usize) -> Output {
    let mut command = case.train(run, &SAVING);
    command.env("LD_PRELOAD", library).env("FAULT_FOLDER", case.path(run));
    command.env("FAULT", fault).env("FAULT_AT", at.to_string()).output().unwrap()
}

/// How many calls of a training change files.
fn calls_of(case: &Case, library: &Path, more: &[&str]) -> usize {
    let mut command = case.train("counted", more);
    command.env("LD_PRELOAD", library).env("FAULT_FOLDER", case.path("counted"));
    let output = command.env("FAULT_COUNT", case.path("count")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    fs::remove_dir_all(case.path("counted")).unwrap();
    let calls = fs::read_to_string(case.path("count")).unwrap().trim().parse().unwrap();
    assert!(calls > 50, "{calls} calls");
    calls
}

/// What happens to a call.
const FAULTS: [&str; 5] = ["enospc", "eio", "erofs", "short", "kill"];

/// Of the training of [`with_fault`].
const SAVING: [&str; 4] = ["--save-every", "2", "--keep-checkpoints", "1"];

/// 10 steps are 5 steps, a kill, and 5 steps: the same bytes.
#[test]
fn ten_steps_are_five_a_kill_and_five() {
    let Some((_folder, library)) = faults() else { return };
    for (device, method) in devices().into_iter().flat_map(|device| [(device, "lora"), (device, "full")]) {
        let case = Case::on(device, method);
        case.reference();
        // Killed at the first call behind the checkpoint of step 5: the write of step 6 to metrics.jsonl, or a neighbour's.
        let killed_at = |at: usize| {
            let run = format!("killed at {at}");
            let mut command = case.train(&run, &["--save-every", "5"]);
            command.env("LD_PRELOAD", &library).env("FAULT_FOLDER", case.path(&run));
            let output = command.env("FAULT", "kill").env("FAULT_AT", at.to_string()).output().unwrap();
            assert_eq!(output.status.signal(), Some(9), "{}", stderr(&output));
            run
        };
        let has_saved = |run: &str| case.path(run).join("checkpoints/step-00000005").exists();
        let (mut before, mut behind) = (0, calls_of(&case, &library, &["--save-every", "5"]));
        while behind - before > 1 {
            let middle = (before + behind) / 2;
            if has_saved(&killed_at(middle)) { behind = middle } else { before = middle }
        }
        let progress = format!("killed at {behind}");
        let output = case.train(&progress, &[]).output().unwrap();
        assert!(stderr(&output).contains("resuming after step 5 "), "{}", stderr(&output));
        assert!(case.result(&progress) == case.result("reference"), "{method} on {device}");
        let state = |run: &str| fs::read(case.path(run).join("checkpoints/step-00000010/state.safetensors")).unwrap();
        assert!(state(&progress) == state("reference"), "{method} on {device}: the optimizer's state differs");
    }
}

/// Each system call that changes a file fails once: of the disk being full, of a fault of the disk, of a disk that has become
/// one to read alone, of a write that is cut short; and the process is killed at each. All of them with `KIUNGO_TORTURE`, else some.
#[test]
fn whatever_write_fails_the_run_goes_on_to_the_same_bytes() {
    let Some((_folder, library)) = faults() else { return };
    for method in ["lora", "full"] {
        let case = Case::new(method);
        case.reference();
        let calls = calls_of(&case, &library, &SAVING);
        let stride = if std::env::var_os("KIUNGO_TORTURE").is_some() { 1 } else { calls / 2 };
        println!("{method}: {calls} calls, each {stride}th fails");
        for (i, fault) in FAULTS.into_iter().enumerate() {
            for at in (1 + i * stride / FAULTS.len()..=calls).step_by(stride) {
                let what = format!("{method}, {fault} at call {at} of {calls}");
                let output = with_fault(&case, &library, "run", fault, at);
                let error = stderr(&output);
                match fault {
                    "kill" => assert_eq!(output.status.signal(), Some(9), "{what}: {error}"),
                    "short" => assert!(output.status.success(), "{what}: {error}"),
                    _ if output.status.success() => {}
                    _ => {
                        let last = case.last_error(&output);
                        let says = match fault {
                            "eio" => "Input/output error",
                            "erofs" => "Read-only file system",
                            _ => "No space left on device",
                        };
                        assert!(last.starts_with("error: ") && last.contains(says), "{what}: {error}");
                    }
                }
                case.ends_as_the_reference("run", &what);
                fs::remove_dir_all(case.path("run")).unwrap();
            }
        }
    }
}

/// SIGKILL at random moments, again and again until the run is through; every second run trains all weights.
#[test]
fn killed_at_random_moments_a_run_ends_in_the_same_bytes() {
    let cases = ["lora", "full"].map(Case::new);
    let whole = cases.each_ref().map(|case| {
        let begin = Instant::now();
        case.reference();
        begin.elapsed()
    });
    let mut rng = crate::support::rng(7);
    let (mut kills, mut runs, mut resumed) = (0, 0, 0);
    while kills < tries() {
        let (case, whole) = (&cases[runs % 2], whole[runs % 2]);
        let run = format!("run {runs}");
        // Later and later, so that the run gets through.
        for attempt in 1.. {
            let mut child = case.train(&run, &["--save-every", "1"]).spawn().unwrap();
            let most = whole.as_micros() as u64 * (2 + attempt) / 4;
            std::thread::sleep(Duration::from_micros(rng.random_range(0..most)));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            resumed += usize::from(stderr(&output).contains("resuming after step "));
            match output.status.signal() {
                Some(9) => kills += 1,
                _ => {
                    assert!(output.status.success(), "{run}: {}", stderr(&output));
                    break;
                }
            }
        }
        case.ends_as_the_reference(&run, &run);
        fs::remove_dir_all(case.path(&run)).unwrap();
        runs += 1;
    }
    println!("{kills} kills in {runs} runs, {resumed} times resumed from a checkpoint; the same bytes, no temporaries");
}

/// A power failure keeps what was synced alone: every file is, after its last write and before it gets its name, and so are
/// the folder that a checkpoint was written in, and the folders that hold the new names.
#[test]
fn what_gets_its_name_is_on_the_disk() {
    let Some((_folder, library)) = faults() else { return };
    let case = Case::new("lora");
    let mut command = case.train("run", &SAVING);
    command.env("LD_PRELOAD", &library).env("FAULT_FOLDER", case.path("run")).env("FAULT_LOG", case.path("log"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let log = fs::read_to_string(case.path("log")).unwrap();
    let calls: Vec<Vec<&str>> = log.lines().map(|line| line.split('\t').collect()).collect();
    let is = |call: &[&str], kind: &str, path: &Path| call[0] == kind && Path::new(call[1]) == path;
    let is_temporary = |path: &str| path.ends_with(".tmp");
    let mut names = 0;
    for (at, call) in calls.iter().enumerate().filter(|(_, call)| call[0] == "rename") {
        // What is renamed to be removed needs no sync.
        if is_temporary(call[2]) {
            continue;
        }
        let (before, behind) = (&calls[..at], &calls[at + 1..]);
        let written = before.iter().filter(|c| c[0] == "write" && Path::new(c[1]).starts_with(call[1]));
        let written: std::collections::BTreeSet<&str> = written.map(|c| c[1]).chain([call[1]]).collect();
        for path in written.iter().map(Path::new) {
            let last_write = before.iter().rposition(|c| is(c, "write", path)).unwrap_or(0);
            // A file that was renamed within the folder was synced under its name before.
            assert!(before[last_write..].iter().any(|c| is(c, "sync", path)), "{} is not synced", path.display());
        }
        let parent = Path::new(call[2]).parent().unwrap();
        assert!(behind.iter().any(|c| is(c, "sync", parent)), "the folder of {} is not synced", call[2]);
        names += 1;
    }
    assert!(names > 20, "only {names} names");
    // Checkpoints say how far the metrics go: these are on the disk first.
    let metrics = case.path("run").join("metrics.jsonl");
    let checkpoints =
        calls.iter().enumerate().filter(|(_, c)| c[0] == "rename" && c[2].contains("/step-") && !is_temporary(c[2]));
    for (at, call) in checkpoints.filter(|(_, c)| Path::new(c[2]).parent().is_some_and(|p| p.ends_with("checkpoints")))
    {
        let last_write = calls[..at].iter().rposition(|c| is(c, "write", &metrics)).unwrap();
        let synced = calls[last_write..at].iter().any(|c| is(c, "sync", &metrics));
        assert!(synced, "{}: the metrics are not synced", call[2]);
    }
}

/// What is written by minutes: a moment that has always passed, and one that never does.
#[test]
fn checkpoints_by_minutes() {
    let case = Case::new("lora");
    for (every, expected) in [("0.0000001m", STEPS), ("600m", 1)] {
        let output = case.train(every, &["--save-every", every, "--keep-checkpoints", "99"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(fs::read_dir(case.path(every).join("checkpoints")).unwrap().count(), expected, "{every}");
    }
}

/// The second signal ends the run at once, without another checkpoint, whatever it is waiting for.
#[test]
fn a_second_signal_ends_the_run_at_once() {
    let Some((_folder, library)) = faults() else { return };
    let case = Case::new("lora");
    case.reference();
    let calls = calls_of(&case, &library, &["--save-every", "off"]);
    let mut command = case.train("run", &["--save-every", "600m"]);
    command.env("LD_PRELOAD", &library).env("FAULT_FOLDER", case.path("run")).env("FAULT_LOG", case.path("log"));
    // The disk hangs in the middle of the run.
    let mut child = command.env("FAULT", "wait").env("FAULT_AT", (calls / 2).to_string()).spawn().unwrap();
    let begin = Instant::now();
    while !fs::read_to_string(case.path("log")).is_ok_and(|log| log.contains("wait\n")) {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let term = || {
        let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        std::thread::sleep(Duration::from_millis(300));
    };
    term();
    assert!(fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| !stat.contains(") Z ")));
    term();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{:?}: {}", output.status, stderr(&output));
    assert!(begin.elapsed() < Duration::from_secs(25), "it waited until the disk was back");
    let output = case.train("run", &["--save-every", "5"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("no checkpoint yet: the run starts at its beginning"), "{}", stderr(&output));
    assert!(case.result("run") == case.result("reference"), "other bytes");
}

/// A step that is not finite ends the run with the step, the tensor, the pairs and the checkpoint of the step before.
#[test]
fn a_step_that_is_not_finite_says_where_and_what_is_saved() {
    let case = Case::new("lora");
    // Warm-up begins with a rate of 0; the second step makes weights of which the third makes infinities.
    let recipe = ["--batch", "8", "--epochs", "2", "--warmup", "1", "--layers", "2", "--lr", "1e38"];
    let output = case.train_by("run", &recipe).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let last = case.last_error(&output);
    for says in [
        "error: step 3: the loss is ",
        "; first not finite: hidden(",
        ". The weights are those before the step. Pairs of the batch: ",
        " = ",
        ". Lower --lr, set --clip 1, or leave such steps out with --skip-nonfinite N; the last good checkpoint is \
         DIR/run/checkpoints/step-00000002; go on with: kiungo train --resume DIR/run",
    ] {
        assert!(last.contains(says), "{says}: {last}");
    }
    // Where the development pairs find it first, at the end of an epoch, such weights are no checkpoint.
    let output = case.train("broken", &["--lr", "1e38"]).output().unwrap();
    let last = case.last_error(&output);
    let says = "the model's output is not finite; there is no checkpoint; go on with: kiungo train --resume DIR/broken";
    assert!(last.starts_with("error: layer 2: ") && last.ends_with(says), "{last}");
}

/// A loss that stays where it is is explained after fifty steps, and one that falls is not.
#[test]
fn a_loss_that_does_not_move_is_explained() {
    let case = Case::new("lora");
    for (rate, is_told) in [("1e-12", true), ("1e-3", false)] {
        let output = case.train_for("26", rate, &["--lr", rate]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let error = stderr(&output);
        assert_eq!(error.contains("warning: the loss has not moved in 50 steps ("), is_told, "{rate}: {error}");
        assert!(!is_told || error.contains(": the learning rate has not been above "), "{error}");
    }
}

/// The first SIGTERM or SIGINT saves and ends the run; what follows is as if it had not come.
#[test]
fn a_signal_saves_and_stops() {
    let case = Case::new("lora");
    let done = case.train_for("30", "reference", &["--save-every", "off"]).output().unwrap();
    assert!(done.status.success() && !case.path("reference/checkpoints").exists(), "{}", stderr(&done));
    for (signal, number, run) in [("TERM", 15, "terminated"), ("INT", 2, "interrupted")] {
        let mut child = case.train_for("30", run, &[]).spawn().unwrap();
        let metrics = case.path(run).join("metrics.jsonl");
        let begin = Instant::now();
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 5 {
            assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + number), "{}", stderr(&output));
        let last = case.last_error(&output);
        let newest = fs::read_dir(case.path(run).join("checkpoints")).unwrap().flatten().next().unwrap();
        let newest = newest.file_name().into_string().unwrap();
        assert!(*newest < *"step-00000060", "{signal}: it went on to its end");
        let expected = format!(
            "error: stopped by SIG{signal}; the last good checkpoint is DIR/{run}/checkpoints/{newest}; go on with: kiungo train --resume DIR/{run}"
        );
        assert_eq!(last, expected);
        assert!(temporaries(&case.path(run)).is_empty());
        let output = case.train_for("30", run, &[]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(case.result(run) == case.result("reference"), "{signal}: other bytes");
    }
}

#[test]
fn arguments_that_would_change_the_result_are_refused_by_name() {
    let Some((_folder, library)) = faults() else { return };
    let case = Case::new("lora");
    case.reference();
    let calls = calls_of(&case, &library, &SAVING);
    let output = with_fault(&case, &library, "run", "kill", calls / 2);
    assert_eq!(output.status.signal(), Some(9));
    let resume = |more: &[&str]| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(case.folder.path()).args(["train", "--resume", "run"]).args(more);
        command.output().unwrap()
    };
    for (arguments, names) in [
        (&["--seed", "1"][..], "--seed"),
        (&["--lr", "2e-3"], "--lr"),
        (&["--epochs", "6"], "--epochs"),
        (&["--batch", "16", "--layers", "1"], "--batch, --layers"),
        (&["--clip", "1", "--shuffle", "off"], "--clip, --shuffle"),
        (&["--compute", "bf16"], "--compute"),
        (&["--pairs", "in/words.sw-en.tsv"], "--pairs"),
    ] {
        let output = resume(arguments);
        let expected = format!(
            "error: {names} would change the result of the run in DIR/run; leave it out, or begin a new run with --output"
        );
        assert_eq!(case.last_error(&output), expected);
        assert_eq!(output.status.code(), Some(1));
    }
    let words = fs::read_to_string(&case.pairs).unwrap();
    fs::write(&case.pairs, words.replace("horse", "house")).unwrap();
    let expected =
        "error: DIR/few words.tsv: not what it was when the run in DIR/run was begun; put it back, or begin a new run";
    assert_eq!(case.last_error(&resume(&[])), expected);
    fs::write(&case.pairs, words).unwrap();
    // Said again, in other words, they are the same; and so are those that change no result.
    let output = resume(&[
        "--lr",
        "0.001",
        "--epochs",
        "5",
        "--keep-checkpoints",
        "3",
        "--save-every",
        "1",
        "--pairs",
        "few words.tsv",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    case.ends_as_the_reference("run", "after refusals");
}

/// A finished run is left as it is, and a folder without one is where it begins.
#[test]
fn a_finished_run_is_left_as_it_is() {
    let case = Case::new("lora");
    case.reference();
    let before = fs::metadata(case.path("reference/summary.json")).unwrap().modified().unwrap();
    let output = case.train("reference", &[]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).replace(&case.folder.path().display().to_string(), "DIR");
    assert_eq!(said, "DIR/reference: this run is finished; nothing is left to do\n");
    assert_eq!(fs::metadata(case.path("reference/summary.json")).unwrap().modified().unwrap(), before);
}

/// A checkpoint that something happened to is reported, and the one before is taken; where none is whole nothing is.
#[test]
fn damaged_checkpoints_are_reported() {
    let Some((_folder, library)) = faults() else { return };
    let case = Case::new("lora");
    case.reference();
    let last = |folder: &Path| {
        let entries = fs::read_dir(folder.join("checkpoints")).unwrap().map(Result::unwrap);
        // Not what the kill has left half made.
        let whole = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("step-"));
        let mut steps: Vec<PathBuf> = whole.map(|entry| entry.path()).collect();
        steps.sort();
        steps
    };
    let damage = |path: PathBuf, what: usize| {
        let mut bytes = fs::read(&path).unwrap();
        match what {
            0 => bytes.truncate(bytes.len() / 2),
            1 => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            _ => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    };
    let calls = calls_of(&case, &library, &SAVING);
    for file in ["state.safetensors", "progress.json", "config.json", "complete.json"] {
        for what in 0..3 {
            let mut command = case.train("run", &["--save-every", "1", "--keep-checkpoints", "3"]);
            command.env("LD_PRELOAD", &library).env("FAULT_FOLDER", case.path("run"));
            let killed = command.env("FAULT", "kill").env("FAULT_AT", calls.to_string()).output().unwrap();
            assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
            let steps = last(&case.path("run"));
            assert!(steps.len() >= 2, "{steps:?}");
            damage(steps.last().unwrap().join(file), what);
            let output = case.train("run", &[]).output().unwrap();
            let error = stderr(&output);
            let warned = format!("warning: damaged checkpoint: {}", steps.last().unwrap().display());
            assert!(error.contains(&warned), "{file}, {what}: {error}");
            assert!(error.contains(&format!("({})", steps[steps.len() - 2].display())), "{file}, {what}: {error}");
            case.ends_as_the_reference("run", file);
            fs::remove_dir_all(case.path("run")).unwrap();
        }
    }
    with_fault(&case, &library, "run", "kill", calls * 2 / 3);
    for step in last(&case.path("run")) {
        damage(step.join("state.safetensors"), 1);
    }
    let output = case.train("run", &[]).output().unwrap();
    let error = case.last_error(&output);
    assert!(
        error.starts_with("error: DIR/run/checkpoints: none of the checkpoints is whole (DIR/run/checkpoints/step-")
    );
    assert!(
        error.ends_with(
            "not the bytes that were written, by its checksum); remove the folder to train from the beginning"
        )
    );
}

#[test]
fn two_processes_do_not_share_a_run() {
    let case = Case::new("lora");
    fs::create_dir(case.path("run")).unwrap();
    let lock = fs::File::open(case.path("run")).unwrap();
    lock.lock().unwrap();
    let output = case.train("run", &[]).output().unwrap();
    let expected = "error: DIR/run: another kiungo is at work on this run; wait for it, or stop it";
    assert_eq!(case.last_error(&output), expected);
}

#[test]
fn a_folder_of_something_else_is_no_run() {
    let case = Case::new("lora");
    fs::create_dir(case.path("run")).unwrap();
    fs::write(case.path("run/mine.txt"), "mine").unwrap();
    let output = case.train("run", &[]).output().unwrap();
    let expected = "error: DIR/run: not empty (it holds mine.txt); name a new folder, or empty this one";
    assert_eq!(case.last_error(&output), expected);
    assert_eq!(fs::read(case.path("run/mine.txt")).unwrap(), b"mine");
}
