//! Every reader of a user's files against mutated input: no panic, no hang, no allocation beyond a bound. So many inputs a
//! reader as `KIUNGO_FUZZ` says; `scripts/fuzz` has libFuzzer look for more.

mod mutation;
mod targets;

use crate::support::{largest, rng};
use mutation::mutate;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target, run};

/// The most that a reader asks for at once, and holds: for a file of `n` bytes, this and [`TIMES`] `n`.
const ALWAYS: usize = 8 << 20;
const TIMES: usize = 64;
/// The longest that it may take, on a machine that is busy with others.
const LONGEST: Duration = Duration::from_secs(30);

fn inputs() -> usize {
    std::env::var("KIUNGO_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

#[test]
fn readers_survive_mutated_files() {
    std::thread::scope(|scope| {
        let threads: Vec<_> = TARGETS.iter().map(|target| scope.spawn(|| survive(target))).collect();
        let failed: Vec<String> = threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    });
}

fn survive(target: &Target) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    (target.prepare)(folder.path());
    let seeds = (target.seeds)();
    let mut rng = rng(target.name.bytes().map(u64::from).sum());
    for i in 0..inputs() {
        let seed = &seeds[i % seeds.len()];
        let input = if i < seeds.len() { seed.clone() } else { mutate(seed, &mut rng) };
        let begin = Instant::now();
        let (outcome, allocated) = largest(|| catch_unwind(AssertUnwindSafe(|| run(target, folder.path(), &input))));
        let what = || format!("{}: {}", target.name, input.escape_ascii());
        if outcome.is_err() {
            return Err(format!("panicked on {}", what()));
        }
        if allocated > ALWAYS + TIMES * input.len() {
            return Err(format!("{allocated} bytes allocated for {}", what()));
        }
        if begin.elapsed() > LONGEST {
            return Err(format!("{:?} for {}", begin.elapsed(), what()));
        }
    }
    Ok(())
}

/// A reader that trusts a length in its file is found out.
#[test]
fn an_allocation_that_a_file_asks_for_is_seen() {
    let (_, allocated) = largest(|| std::hint::black_box(vec![0u8; 100 << 20]).len());
    assert!(allocated >= 100 << 20);
    let (_, allocated) = largest(|| std::hint::black_box(vec![0u8; 10]).len());
    assert!(allocated < 1 << 20);
}
