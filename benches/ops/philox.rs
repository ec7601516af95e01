//! Dropout's factors, drawn alone: what they cost where they are drawn beside other work. Floor: writing them.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Launch, Tensor};
use kiungo::ops::params::PhiloxParams;
use kiungo::ops::philox::Dropout;

const THREADS: usize = 256;
const DROPOUT: Dropout = Dropout { probability: 0.1, seed: 1, stream: 0, step: 0, first: 0 };

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let Device::Cuda(gpu) = bench.device().clone() else { return Ok(()) };
    let shape = Shape { m: 4096, n: 4096, k: 0 };
    let factors = Tensor::zeros(bench.device(), DType::F32, &[shape.m, shape.n])?;
    let count = factors.len() as u64;
    let params = PhiloxParams { factors: factors.address()?, first: 0, count, dropout: Dropout::params(Some(DROPOUT)) };
    let launch = Launch::new("philox", "philox_factors", [count.div_ceil(THREADS as u64) as u32, 1, 1], 256, params);
    bench.run("philox", "dropout", shape, Work::Bytes(factors.bytes() as f64), || Ok(gpu.launch(&launch)?))
}

pub fn cpu(criterion: &mut Criterion) {
    let (x, mut y) = (vec![1.0; 256 * 576], vec![0.0; 256 * 576]);
    criterion.bench_function("dropout 256x576", |b| b.iter(|| DROPOUT.apply(0, &x, &mut y)));
}
