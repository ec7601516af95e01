//! Adapters of rank 16, and one of 64, beside the linear layers of a Llama 3 8B: what they add to their time.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::lora::{self, Factors};
use kiungo::ops::philox::Dropout;

const RANK: usize = 16;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for (name, outputs, inputs) in [("q/o", 4096, 4096), ("gate/up", 14336, 4096), ("down", 4096, 14336)] {
        for tokens in [768, 4096] {
            layer(bench, name, [tokens, outputs, inputs])?;
        }
    }
    of_64_ranks(bench)
}

/// The row to set beside "q/o layer alone" of as many tokens.
fn of_64_ranks(bench: &mut Bench) -> anyhow::Result<()> {
    const SIZE: usize = 4096;
    const RANK: usize = 64;
    let x = bench.normal(DType::Bf16, &[SIZE, SIZE])?;
    let weight = Weight::Dense(bench.normal(DType::Bf16, &[SIZE, SIZE])?);
    let (a, b) = (bench.normal(DType::F32, &[RANK, SIZE])?, bench.normal(DType::F32, &[SIZE, RANK])?);
    let mut s = Tensor::zeros(bench.device(), DType::F32, &[SIZE, RANK])?;
    let mut y = Tensor::zeros(bench.device(), DType::Bf16, &[SIZE, SIZE])?;
    let flops = 2.0 * (SIZE * SIZE * SIZE) as f64;
    let shape = Shape { m: SIZE, n: SIZE, k: SIZE };
    bench.run("lora", "q/o with layer r 64", shape, Work::Flops(flops), || {
        lora::linear(&x, &weight, &Factors::new(&a, &b, 2.0), &mut s, &mut y)
    })
}

fn layer(bench: &mut Bench, name: &str, [tokens, outputs, inputs]: [usize; 3]) -> anyhow::Result<()> {
    let (x, dy) = (bench.normal(DType::Bf16, &[tokens, inputs])?, bench.normal(DType::Bf16, &[tokens, outputs])?);
    let (a, b) = (bench.normal(DType::F32, &[RANK, inputs])?, bench.normal(DType::F32, &[outputs, RANK])?);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(bench.device(), dtype, shape);
    let [mut s, mut ds] = [zeros(DType::F32, &[tokens, RANK])?, zeros(DType::F32, &[tokens, RANK])?];
    let (mut y, mut dx) = (zeros(DType::Bf16, &[tokens, outputs])?, zeros(DType::Bf16, &[tokens, inputs])?);
    let (mut da, mut db) = (zeros(DType::F32, &[RANK, inputs])?, zeros(DType::F32, &[outputs, RANK])?);
    let shape = Shape { m: tokens, n: outputs, k: inputs };
    let (x_bytes, y_bytes) = ((2 * tokens * inputs) as f64, (2 * tokens * outputs) as f64);
    let weight = Weight::Dense(bench.normal(DType::Bf16, &[outputs, inputs])?);
    let flops = 2.0 * (tokens * outputs * inputs) as f64;
    bench.run("lora", format!("{name} layer alone"), shape, Work::Flops(flops), || {
        linear::forward(&x, &weight, &mut y)
    })?;
    for (suffix, dropout) in
        [("", None), (" dropout", Some(Dropout { probability: 0.1, seed: 1, stream: 0, step: 0, first: 0 }))]
    {
        let factors = Factors { a: &a, b: &b, scale: 2.0, dropout, state: None };
        // Forward reads x and y and writes y; backward reads dy and x, and reads and writes dx.
        let work = Work::Bytes(x_bytes + 2.0 * y_bytes);
        bench
            .run("lora", format!("{name} fwd{suffix}"), shape, work, || lora::forward(&x, &factors, &mut s, &mut y))?;
        bench.run("lora", format!("{name} with layer{suffix}"), shape, Work::Flops(flops), || {
            lora::linear(&x, &weight, &factors, &mut s, &mut y)
        })?;
        let work = Work::Bytes(y_bytes + 3.0 * x_bytes);
        bench.run("lora", format!("{name} bwd{suffix}"), shape, work, || {
            lora::backward(&dy, &x, &s, &factors, &mut ds, &mut da, &mut db, Some(&mut dx))
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(x), Ok(a), Ok(b)) = (zeros(&[256, 576]), zeros(&[RANK, 576]), zeros(&[576, RANK])) else { return };
    let (Ok(mut s), Ok(mut y)) = (zeros(&[256, RANK]), zeros(&[256, 576])) else { return };
    let factors = Factors { a: &a, b: &b, scale: 2.0, dropout: None, state: None };
    criterion.bench_function("lora forward f32 256x576x576", |bench| {
        bench.iter(|| lora::forward(&x, &factors, &mut s, &mut y))
    });
}
