//! The reader that `KIUNGO_FUZZ_TARGET` names.
#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use kiungo::formats::tokenizer;
use libfuzzer_sys::fuzz_target;
use std::panic;
use std::sync::LazyLock;
use tempfile::TempDir;

static TARGET: LazyLock<(&targets::Target, TempDir)> = LazyLock::new(|| {
    let name = std::env::var("KIUNGO_FUZZ_TARGET").unwrap_or_default();
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("KIUNGO_FUZZ_TARGET names no target: {name:?}"));
    // libFuzzer's hook ends the process at any panic, also one that is caught.
    let end = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !tokenizer::catches_panics() {
            end(panic);
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    (target.prepare)(folder.path());
    if let Some(corpus) = std::env::var_os("KIUNGO_FUZZ_SEEDS") {
        for (i, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(std::path::Path::new(&corpus).join(format!("seed-{i}")), seed).unwrap();
        }
    }
    (target, folder)
});

fuzz_target!(|bytes: &[u8]| targets::run(TARGET.0, TARGET.1.path(), bytes));
