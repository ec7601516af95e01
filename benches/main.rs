//! Times the ops: on a GPU at the shapes of Llama 3 8B, without one the CPU references at small shapes.
//!
//! `cargo bench` runs all, `cargo bench -- gemm` one op, `-- --json FILE` also writes the table as JSON, where rows of other
//! ops that the file has stay, `-- --peers FILE` puts beside it what others took, as `benches/peers/peers.py --json FILE` measured on the same GPU, and `-- --profile`
//! lists the launches of whole steps with their times. `load` reads a checkpoint: `-- load --checkpoint DIR`, where
//! `kiungo random --model llama-3-8b --output DIR` writes one.
//! Method: standard normal data, caches flushed before every run by reading, CUDA events, the median of 21 runs; what takes
//! less than 0.3 ms by what a graph of 12 flushes and ops takes more than one of 12 flushes. Whole jobs (`load`, `embed`)
//! are timed by the clock on the wall.

mod harness;
mod ops;
mod step;

use anyhow::Context;
use harness::{Bench, table};
use kiungo::device::{Device, cuda};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let device = if cuda::has_kernels() { Device::cuda(0) } else { Err(kiungo::device::DeviceError::NoKernels) };
    match device {
        Ok(device) => {
            let peers = match &arguments.peers {
                Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
                None => vec![],
            };
            let before = match &arguments.json {
                Some(path) if path.exists() => rows_of(path)?,
                _ => vec![],
            };
            if peers.is_empty() {
                println!("without peers: see benches/peers/README.md");
            }
            let mut bench = Bench::new(device, peers)?;
            bench.profile = arguments.profile;
            bench.checkpoint = arguments.checkpoint.clone();
            for (op, run) in ops::ALL {
                if arguments.wants(op) {
                    run(&mut bench)?;
                }
            }
            print!("{}", table(&bench));
            if let Some(path) = &arguments.json {
                write(path, &before, &bench, &arguments)?;
            }
        }
        Err(why) => {
            println!("no GPU ({why}): timing the CPU references at small shapes");
            let mut criterion = criterion::Criterion::default().sample_size(10).without_plots();
            ops::cpu(&mut criterion, |op| arguments.wants(op));
            criterion.final_summary();
        }
    }
    Ok(())
}

fn rows_of(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| format!("{}: no rows", path.display()))
}

/// Writes the rows; those from before stay where they are of ops that were not asked for.
fn write(path: &Path, before: &[Value], bench: &Bench, arguments: &Arguments) -> anyhow::Result<()> {
    // `adamw linear` is of `adamw`.
    let is_of = |row: &Value, op: &str| row["op"].as_str().is_some_and(|name| name.split(' ').next() == Some(op));
    let new: Vec<Value> = bench.rows().iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let rows = |op| if arguments.wants(op) { &new[..] } else { before };
    let all: Vec<&Value> = ops::ALL.iter().flat_map(|&(op, _)| rows(op).iter().filter(move |r| is_of(r, op))).collect();
    Ok(std::fs::write(path, serde_json::to_string_pretty(&all)?)?)
}

/// What follows `cargo bench --`.
#[derive(Default)]
struct Arguments {
    ops: Vec<String>,
    json: Option<PathBuf>,
    peers: Option<PathBuf>,
    profile: bool,
    checkpoint: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
        let mut parsed = Arguments::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // cargo adds it.
                "--bench" => {}
                "--profile" => parsed.profile = true,
                "--json" | "--peers" | "--checkpoint" => {
                    let path = arguments.next().ok_or_else(|| anyhow::anyhow!("{argument} needs a path"))?;
                    let place = match argument.as_str() {
                        "--json" => &mut parsed.json,
                        "--peers" => &mut parsed.peers,
                        _ => &mut parsed.checkpoint,
                    };
                    *place = Some(path.into());
                }
                op if ops::ALL.iter().any(|(name, _)| *name == op) => parsed.ops.push(argument),
                other => {
                    let names: Vec<&str> = ops::ALL.iter().map(|(name, _)| *name).collect();
                    anyhow::bail!(
                        "unknown argument {other}: expected --json FILE, --peers FILE, --checkpoint DIR, --profile, or ops of {}",
                        names.join(", ")
                    )
                }
            }
        }
        Ok(parsed)
    }

    fn wants(&self, op: &str) -> bool {
        self.ops.is_empty() || self.ops.iter().any(|o| o == op)
    }
}
