//! A checkpoint from the page cache to the GPU: all of it, and what a target at hidden(2) needs.

use crate::harness::{Bench, Shape, Work};
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::weights::{Options, Transfer, load_with};
use kiungo::llama::Parts;
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, names};
use std::cell::Cell;

const RUNS: usize = 5;
const BUFFER: usize = 64 << 20;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(folder) = bench.checkpoint.clone() else {
        println!("load: skipped without --checkpoint DIR");
        return Ok(());
    };
    let config = Config::open(&folder)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let transfer = transfer()?;
    let device = bench.device().clone();
    let whole = Parts { blocks: config.layers, final_norm: true, head: true };
    let bottom = Parts { blocks: 2.min(config.layers), final_norm: false, head: false };
    let cases = [("nf4", Base::Nf4, whole), ("bf16", Base::Bf16, whole), ("nf4 hidden(2)", Base::Nf4, bottom)];
    for (variant, base, parts) in cases {
        let options = Options { parts, base, compute: DType::Bf16, device: &device, positions: 512 };
        let bytes = read_bytes(&checkpoint, &config, parts)?;
        let shape = Shape { m: parts.blocks, n: config.hidden_size, k: 0 };
        bench.job("load", variant, shape, Work::HostBytes(bytes), RUNS, || {
            load_with(&checkpoint, &config, options, transfer, |_| {})?;
            Ok(())
        })?;
    }
    let options = Options { parts: whole, base: Base::Nf4, compute: DType::Bf16, device: &device, positions: 512 };
    let (before, most) = (anonymous_bytes(), Cell::new(0));
    load_with(&checkpoint, &config, options, transfer, |_| most.set(most.get().max(anonymous_bytes())))?;
    println!(
        "load: {:.3} GB of anonymous host memory at most, {:.3} before",
        most.get() as f64 / 1e9,
        before as f64 / 1e9
    );
    let bytes = read_bytes(&checkpoint, &config, whole)?;
    copy_alone(bench, &config, bytes)
}

/// The usual buffers, or what `KIUNGO_TRANSFER=THREADS,BUFFERS,MIB` says, to find out which should be the usual ones.
fn transfer() -> anyhow::Result<Transfer> {
    let Ok(text) = std::env::var("KIUNGO_TRANSFER") else { return Ok(Transfer::default()) };
    let numbers: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let &[threads, buffers, mib] = numbers.as_slice() else { anyhow::bail!("KIUNGO_TRANSFER={text}: three numbers") };
    Ok(Transfer { threads, buffers, bytes: mib << 20 })
}

/// What this process holds that is no file's, where the system says so.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).map_or(0, |kb| kb << 10)
}

/// Bytes of the tensors that are read.
fn read_bytes(checkpoint: &Checkpoint, config: &Config, parts: Parts) -> anyhow::Result<f64> {
    let needed = names::all(config).into_iter().filter(|(name, _)| parts.need(name));
    let bytes = needed.map(|(name, _)| Ok(checkpoint.tensor(&name)?.bytes()));
    Ok(bytes.sum::<anyhow::Result<usize>>()? as f64)
}

/// The floor: as many bytes from pinned memory, which nobody fills.
fn copy_alone(bench: &mut Bench, config: &Config, bytes: f64) -> anyhow::Result<()> {
    let Device::Cuda(gpu) = bench.device().clone() else { return Ok(()) };
    let [host, _] = gpu.allocate_pinned(BUFFER)?;
    let to = Tensor::uninitialized(bench.device(), DType::U8, &[BUFFER])?;
    let shape = Shape { m: config.layers, n: config.hidden_size, k: 0 };
    let result = bench.job("load", "pinned copy", shape, Work::HostBytes(bytes), RUNS, || {
        let mut left = bytes as usize;
        while left > 0 {
            gpu.upload_pinned(host, to.address()?, left.min(BUFFER))?;
            left -= left.min(BUFFER);
        }
        Ok(())
    });
    gpu.free_pinned(host);
    result
}
