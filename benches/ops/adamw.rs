//! AdamW over 2^28 weights, the gradient read.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::adamw::{self, AdamW};

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let shape = Shape { m: 0, n: 1 << 16, k: 4096 };
    let g = bench.normal(DType::F32, &[shape.n, shape.k])?;
    let zeros = |dtype| Tensor::zeros(bench.device(), dtype, &[shape.n, shape.k]);
    let (mut w, mut m, mut v) = (zeros(DType::F32)?, zeros(DType::F32)?, zeros(DType::F32)?);
    let work = Work::Bytes(7.0 * g.bytes() as f64);
    let adamw = AdamW::default();
    bench.run("adamw", "f32 states", shape, work, || adamw::step(&adamw, 1, &mut w, &g, &mut m, &mut v, None))
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = || Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]);
    let (Ok(mut w), Ok(g), Ok(mut m), Ok(mut v)) = (zeros(), zeros(), zeros(), zeros()) else { return };
    let adamw = AdamW::default();
    criterion
        .bench_function("adamw f32 256x576", |b| b.iter(|| adamw::step(&adamw, 1, &mut w, &g, &mut m, &mut v, None)));
}
