//! Cosines of a batch's sources with its targets, and their gradient.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::pairs;

const HIDDEN: usize = 4096;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for n in [8, 64, 512] {
        let shape = Shape { m: n, n, k: HIDDEN };
        let (unit, d) = (bench.normal(DType::F32, &[2 * n, HIDDEN])?, bench.normal(DType::F32, &[n, n])?);
        let mut similarity = Tensor::zeros(bench.device(), DType::F32, &[n, n])?;
        let mut dunit = Tensor::zeros(bench.device(), DType::F32, unit.shape())?;
        let flops = 2.0 * (n * n * HIDDEN) as f64;
        bench.run("pairs", "fwd", shape, Work::Flops(flops), || pairs::forward(&unit, &mut similarity))?;
        bench.run("pairs", "bwd", shape, Work::Flops(2.0 * flops), || pairs::backward(&d, &unit, &mut dunit))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(unit), Ok(mut similarity)) = (zeros(&[128, 576]), zeros(&[64, 64])) else { return };
    criterion.bench_function("pairs 64x576", |b| b.iter(|| pairs::forward(&unit, &mut similarity)));
}
