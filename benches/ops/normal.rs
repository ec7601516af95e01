//! Normal values, drawn where they are needed. Floor: writing them.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::normal::{self, Normal};

const NORMAL: Normal = Normal { seed: 1, stream: 0, scale: 0.02 };

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let shape = Shape { m: 0, n: 14336, k: 4096 };
    for dtype in [DType::Bf16, DType::F32] {
        let mut y = Tensor::zeros(bench.device(), dtype, &[shape.n, shape.k])?;
        let work = Work::Bytes(y.bytes() as f64);
        bench.run("normal", dtype.to_string(), shape, work, || normal::fill(NORMAL, &mut y))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let Ok(mut y) = Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]) else { return };
    criterion.bench_function("normal f32 256x576", |b| b.iter(|| normal::fill(NORMAL, &mut y)));
}
