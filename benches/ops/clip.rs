//! Sums of squares of a gradient: one read of it.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::clip;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let shape = Shape { m: 0, n: 14336, k: 4096 };
    for dtype in [DType::Bf16, DType::F32] {
        let gradient = bench.normal(dtype, &[shape.n, shape.k])?;
        let mut squares = Tensor::zeros(bench.device(), DType::F32, &[clip::sums(gradient.len())])?;
        let work = Work::Bytes((gradient.bytes() + squares.bytes()) as f64);
        bench.run("clip", dtype.to_string(), shape, work, || clip::squares(&gradient, &mut squares, 0))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(gradient), Ok(mut squares)) = (zeros(&[256, 576]), zeros(&[clip::sums(256 * 576)])) else { return };
    criterion.bench_function("clip squares f32 256x576", |b| b.iter(|| clip::squares(&gradient, &mut squares, 0)));
}
