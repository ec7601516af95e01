//! Retrieval: questions against all paragraphs, and the best of each.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::similarity;

const HIDDEN: usize = 4096;
const BEST: usize = 10;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for [queries, candidates] in [[1190, 240], [1190, 13000]] {
        let [q, c] = [queries, candidates].map(|rows| bench.normal(DType::F32, &[rows, HIDDEN]));
        let (q, c) = (q?, c?);
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(bench.device(), dtype, shape);
        let mut scores = zeros(DType::F32, &[queries, candidates])?;
        let (mut best, mut indices) = (zeros(DType::F32, &[queries, BEST])?, zeros(DType::U32, &[queries, BEST])?);
        let shape = Shape { m: queries, n: candidates, k: HIDDEN };
        let flops = Work::Flops(2.0 * (queries * candidates * HIDDEN) as f64);
        bench.run("similarity", "matrix", shape, flops, || similarity::matrix(&q, &c, &mut scores))?;
        let read = Work::Bytes(scores.bytes() as f64);
        bench.run("similarity", "top 10", Shape { k: 0, ..shape }, read, || {
            similarity::top_k(&scores, BEST, &mut best, &mut indices)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&Device::Cpu, dtype, shape);
    let Ok(scores) = zeros(DType::F32, &[128, 1000]) else { return };
    let (Ok(mut best), Ok(mut at)) = (zeros(DType::F32, &[128, BEST]), zeros(DType::U32, &[128, BEST])) else { return };
    criterion.bench_function("top 10 of 1000, 128 rows", |b| {
        b.iter(|| similarity::top_k(&scores, BEST, &mut best, &mut at))
    });
}
