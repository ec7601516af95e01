//! Rotary embedding of a Llama 3 8B's queries and keys, in place.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::rope::{self, Scaling, Table, inverse_frequencies};

const HEAD: usize = 128;
/// Columns of queries and of keys.
const COLUMNS: [usize; 2] = [32 * HEAD, 8 * HEAD];

/// The angles of 8192 positions, and the positions of sequences of that length.
fn angles(device: &Device, tokens: usize) -> kiungo::ops::Result<(Table, Tensor)> {
    const LENGTH: usize = 8192;
    let table = Table::new(device, &inverse_frequencies(500_000.0, HEAD, &Scaling::None), LENGTH)?;
    let positions: Vec<u32> = (0..tokens).map(|t| (t % LENGTH) as u32).collect();
    Ok((table, Tensor::from_slice(device, &positions, &[tokens])?))
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for tokens in [768, 16384] {
        let (table, positions) = angles(bench.device(), tokens)?;
        let mut q = bench.normal(DType::Bf16, &[tokens, COLUMNS[0]])?;
        let mut k = bench.normal(DType::Bf16, &[tokens, COLUMNS[1]])?;
        let shape = Shape { m: tokens, n: COLUMNS[0] + COLUMNS[1], k: 0 };
        let work = Work::Bytes(2.0 * (q.bytes() + k.bytes()) as f64);
        bench.run("rope", "q and k", shape, work, || rope::forward_both(&mut q, &mut k, &positions, &table, HEAD))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let Ok((table, positions)) = angles(&Device::Cpu, 256) else { return };
    let Ok(mut q) = Tensor::zeros(&Device::Cpu, DType::F32, &[256, 9 * HEAD]) else { return };
    criterion.bench_function("rope f32 256x1152", |b| b.iter(|| rope::forward(&mut q, &positions, &table, HEAD)));
}
