//! InfoNCE over a batch's similarities, and its gradient.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::infonce::{self, Direction};

const TEMPERATURE: f32 = 0.05;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for n in [64, 512, 4096] {
        let similarity = bench.normal(DType::F32, &[n, n])?;
        let zeros = |shape: &[usize]| Tensor::zeros(bench.device(), DType::F32, shape);
        let (mut loss, mut gradient) = (zeros(&[1])?, zeros(&[n, n])?);
        // The similarities are read, and the gradient written.
        let work = Work::Bytes(2.0 * similarity.bytes() as f64);
        bench.run("infonce", "both", Shape { m: n, n, k: 0 }, work, || {
            infonce::forward(&similarity, None, TEMPERATURE, Direction::Both, &mut loss, &mut gradient)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(s), Ok(mut loss), Ok(mut gradient)) = (zeros(&[64, 64]), zeros(&[1]), zeros(&[64, 64])) else { return };
    criterion.bench_function("infonce 64", |b| {
        b.iter(|| infonce::forward(&s, None, TEMPERATURE, Direction::Both, &mut loss, &mut gradient))
    });
}
