//! The language-model loss with the head of a Llama 3 8B, and its gradients.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::cross_entropy;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let (tokens, hidden, vocab) = (4096, 4096, 128_256);
    let [x, head] = [tokens, vocab].map(|rows| bench.normal(DType::Bf16, &[rows, hidden]));
    let (x, head) = (x?, head?);
    let labels: Vec<u32> = (0..tokens as u32).map(|t| t * 31 % vocab as u32).collect();
    let labels = Tensor::from_vec(bench.device(), labels, &[tokens])?;
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(bench.device(), dtype, shape);
    let (mut loss, mut dx) = (zeros(DType::F32, &[1])?, zeros(DType::Bf16, &[tokens, hidden])?);
    let mut dhead = zeros(DType::F32, &[vocab, hidden])?;
    let shape = Shape { m: tokens, n: vocab, k: hidden };
    let product = 2.0 * (tokens * vocab * hidden) as f64;
    bench.run("cross_entropy", "loss, dhidden, dhead", shape, Work::Flops(3.0 * product), || {
        cross_entropy::forward_backward(&x, &head, &labels, &mut loss, Some(&mut dx), Some(&mut dhead))
    })?;
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(x), Ok(head), Ok(mut loss)) = (zeros(&[64, 576]), zeros(&[4096, 576]), zeros(&[1])) else { return };
    let (Ok(mut dx), Ok(mut dhead)) = (zeros(&[64, 576]), zeros(&[4096, 576])) else { return };
    let Ok(labels) = Tensor::zeros(&Device::Cpu, DType::U32, &[64]) else { return };
    criterion.bench_function("cross_entropy f32 64x576, 4096 words", |b| {
        b.iter(|| cross_entropy::forward_backward(&x, &head, &labels, &mut loss, Some(&mut dx), Some(&mut dhead)))
    });
}
