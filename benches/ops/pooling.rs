//! A vector a sequence: many words, and few passages.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::sequences::Sequences;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    const HIDDEN: usize = 4096;
    for (count, length) in [(1024, 8), (80, 200)] {
        let sequences = Sequences::new(bench.device(), &vec![length; count])?;
        let h = bench.normal(DType::Bf16, &[count * length, HIDDEN])?;
        let dy = bench.normal(DType::F32, &[count, HIDDEN])?;
        let mut y = Tensor::zeros(bench.device(), DType::F32, &[count, HIDDEN])?;
        let mut dh = Tensor::zeros(bench.device(), DType::Bf16, &[count * length, HIDDEN])?;
        let shape = Shape { m: count * length, n: HIDDEN, k: 0 };
        let work = Work::Bytes((h.bytes() + y.bytes()) as f64);
        let name = |pass: &str| format!("{pass} {count}x{length}");
        bench
            .run("pooling", name("forward"), shape, work, || pooling::forward(&h, &sequences, Pooling::Mean, &mut y))?;
        bench.run("pooling", name("backward"), shape, work, || {
            pooling::backward(&dy, &sequences, Pooling::Mean, &mut dh)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let Ok(sequences) = Sequences::new(&Device::Cpu, &[8; 32]) else { return };
    let Ok(h) = Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]) else { return };
    let Ok(mut y) = Tensor::zeros(&Device::Cpu, DType::F32, &[32, 576]) else { return };
    criterion.bench_function("pooling forward f32 32x8x576", |b| {
        b.iter(|| pooling::forward(&h, &sequences, Pooling::Mean, &mut y))
    });
}
