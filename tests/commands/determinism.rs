//! One seed, one device: one result, however often and by however many threads.

use assert_cmd::cargo::CommandCargoExt;
use kiungo::device::{Device, cuda};
use std::process::Command;

/// How often a run is repeated on a device: five times on the CPU, twenty on a GPU, or as often as `KIUNGO_REPEATS` says on the
/// GPU, or on the CPU where there is none.
fn repeats(device: &str, has_gpu: bool) -> usize {
    let asked = std::env::var("KIUNGO_REPEATS").ok().and_then(|n| n.parse().ok());
    match device {
        "cpu" if has_gpu => 5,
        "cpu" => asked.unwrap_or(5),
        _ => asked.unwrap_or(20),
    }
}

/// The hash that a run ends with, as it is printed; the summary and the report hold it too.
fn hash(device: &str, method: &str, threads: usize, folder: &std::path::Path) -> String {
    let run = tempfile::tempdir_in(folder).unwrap();
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.current_dir(folder).env("RAYON_NUM_THREADS", threads.to_string());
    command.args(["train", "--device", device, "--method", method, "--epochs", "1", "--layers", "2", "--output"]);
    let output = command.arg(run.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let hash = said.lines().find_map(|line| line.strip_prefix("final hash: ")).unwrap().to_string();
    assert_eq!(hash.len(), 64);
    for file in ["summary.json", "report.html", "report.txt"] {
        let text = std::fs::read_to_string(run.path().join(file)).unwrap();
        assert!(text.split_whitespace().collect::<String>().contains(&hash), "{file} lacks {hash}");
    }
    hash
}

#[test]
fn a_run_ends_in_one_hash() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = cuda::has_kernels() && Device::cuda(0).is_ok() && !crate::support::under_sanitizer();
    for device in ["cpu"].into_iter().chain(gpu.then_some("cuda")) {
        for method in ["lora", "full"] {
            let first = hash(device, method, 1, folder.path());
            let repeat = |repeat: usize| {
                let threads = 1 + repeat % 2;
                let found = hash(device, method, threads, folder.path());
                assert_eq!(found, first, "{method} on {device}, run {repeat}, {threads} threads");
            };
            // A GPU has room for several runs at once; each is a process of its own.
            let at_once = if device == "cpu" { 1 } else { 8 };
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..at_once)
                    .map(|worker| {
                        scope.spawn(move || (1 + worker..repeats(device, gpu)).step_by(at_once).for_each(repeat))
                    })
                    .collect();
                workers.into_iter().for_each(|worker| worker.join().unwrap());
            });
            println!("{method} on {device}: {first}, {} times", repeats(device, gpu));
        }
    }
}
