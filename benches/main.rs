//! Times the ops: on a GPU at the shapes of Llama 3 8B, without one the CPU references at small shapes.
//!
//! `cargo bench` runs all, `cargo bench -- gemm` one op, `-- --json FILE` also writes the table as JSON.
//! Method: standard normal data, caches flushed before every run, CUDA events, the median of 21 runs. Ceilings are the
//! data sheet's. Peers were measured on an H100 SXM (80 GB) with torch 2.11, bitsandbytes 0.50.2 and PEFT 0.21, so they
//! are shown on such a card alone.

mod harness;
mod ops;

use harness::{Bench, table};
use kiungo::device::{Device, cuda};
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let device = if cuda::has_kernels() { Device::cuda(0) } else { Err(kiungo::device::DeviceError::NoKernels) };
    match device {
        Ok(device) => {
            let mut bench = Bench::new(device)?;
            for (op, run) in ops::ALL {
                if arguments.wants(op) {
                    run(&mut bench)?;
                }
            }
            print!("{}", table(&bench));
            if let Some(path) = &arguments.json {
                std::fs::write(path, serde_json::to_string_pretty(bench.rows())?)?;
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

/// What follows `cargo bench --`.
#[derive(Default)]
struct Arguments {
    ops: Vec<String>,
    json: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
        let mut parsed = Arguments::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // cargo adds it.
                "--bench" => {}
                "--json" => {
                    let path = arguments.next().ok_or_else(|| anyhow::anyhow!("--json needs a file"))?;
                    parsed.json = Some(path.into());
                }
                op if ops::ALL.iter().any(|(name, _)| *name == op) => parsed.ops.push(argument),
                other => {
                    let names: Vec<&str> = ops::ALL.iter().map(|(name, _)| *name).collect();
                    anyhow::bail!("unknown argument {other}: expected --json FILE, or ops of {}", names.join(", "))
                }
            }
        }
        Ok(parsed)
    }

    fn wants(&self, op: &str) -> bool {
        self.ops.is_empty() || self.ops.iter().any(|o| o == op)
    }
}
