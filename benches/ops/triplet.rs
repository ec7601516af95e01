//! Triplet losses and their gradients: the hardest negative of a batch, and negatives that the data name.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::triplet::{self, Direction};

const HIDDEN: usize = 4096;
const MARGIN: f32 = 0.2;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for n in [64, 512, 4096] {
        hardest(bench, n)?;
        given(bench, n)?;
    }
    Ok(())
}

fn hardest(bench: &mut Bench, n: usize) -> anyhow::Result<()> {
    let similarity = bench.normal(DType::F32, &[n, n])?;
    let zeros = |shape: &[usize]| Tensor::zeros(bench.device(), DType::F32, shape);
    let (mut loss, mut gradient) = (zeros(&[1])?, zeros(&[n, n])?);
    // The similarities are read, and the gradient written.
    let work = Work::Bytes(2.0 * similarity.bytes() as f64);
    bench.run("triplet", "hardest", Shape { m: n, n, k: 0 }, work, || {
        triplet::hardest(&similarity, None, Direction::Both, MARGIN, &mut loss, &mut gradient)
    })
}

fn given(bench: &mut Bench, n: usize) -> anyhow::Result<()> {
    let rows = || [n, HIDDEN];
    let [a, p, m] = [0; 3].map(|_| bench.normal(DType::F32, &rows()));
    let (a, p, m) = (a?, p?, m?);
    let zeros = |shape: &[usize]| Tensor::zeros(bench.device(), DType::F32, shape);
    let mut loss = zeros(&[1])?;
    let (mut da, mut dp, mut dm) = (zeros(&rows())?, zeros(&rows())?, zeros(&rows())?);
    let work = Work::Bytes(6.0 * a.bytes() as f64);
    bench.run("triplet", "given", Shape { m: n, n: HIDDEN, k: 0 }, work, || {
        triplet::given(&a, &p, &m, MARGIN, &mut loss, &mut da, &mut dp, &mut dm)
    })
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(s), Ok(mut loss), Ok(mut gradient)) = (zeros(&[64, 64]), zeros(&[1]), zeros(&[64, 64])) else { return };
    criterion.bench_function("triplet hardest 64", |b| {
        b.iter(|| triplet::hardest(&s, None, Direction::Both, MARGIN, &mut loss, &mut gradient))
    });
}
