//! Rows of a Llama 3 8B's table, and their gradient: ids without order, and one (the begin of sequence) every 16th.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::embedding;

fn ids(device: &Device, tokens: usize, vocab: usize) -> kiungo::ops::Result<Tensor> {
    let ids: Vec<u32> = (0..tokens).map(|t| if t % 16 == 0 { 0 } else { (t * 7919 % vocab) as u32 }).collect();
    Ok(Tensor::from_slice(device, &ids, &[tokens])?)
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let (vocab, hidden) = (128_256, 4096);
    let table = bench.normal(DType::Bf16, &[vocab, hidden])?;
    let mut dtable = Tensor::zeros(bench.device(), DType::F32, &[vocab, hidden])?;
    for tokens in [768, 16384] {
        let ids = ids(bench.device(), tokens, vocab)?;
        let dy = bench.normal(DType::Bf16, &[tokens, hidden])?;
        let mut y = Tensor::zeros(bench.device(), DType::Bf16, &[tokens, hidden])?;
        let shape = Shape { m: tokens, n: hidden, k: 0 };
        let pass = y.bytes() as f64;
        bench
            .run("embedding", "forward", shape, Work::Bytes(2.0 * pass), || embedding::forward(&table, &ids, &mut y))?;
        // Reads the gradient, and reads and writes a row of f32 for nearly every token.
        bench.run("embedding", "backward", shape, Work::Bytes(5.0 * pass), || {
            embedding::backward(&dy, &ids, &mut dtable)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let (Ok(ids), Ok(table)) = (ids(&Device::Cpu, 256, 999), Tensor::zeros(&Device::Cpu, DType::F32, &[999, 576]))
    else {
        return;
    };
    let Ok(mut y) = Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]) else { return };
    criterion.bench_function("embedding forward f32 256x576", |b| b.iter(|| embedding::forward(&table, &ids, &mut y)));
}
