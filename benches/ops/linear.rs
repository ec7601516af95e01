//! A linear layer of a Llama 3 8B over NF4, and the gradient of its input. Dense ones are products: `gemm`.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::nf4::Nf4Tensor;

const OUT: usize = 14336;
const IN: usize = 4096;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let weight = Weight::Nf4(Nf4Tensor::quantize(&bench.normal(DType::Bf16, &[OUT, IN])?, false)?);
    for tokens in [1, 16, 64, 80, 512, 4096] {
        let [mut x, mut y] = [bench.normal(DType::Bf16, &[tokens, IN])?, bench.normal(DType::Bf16, &[tokens, OUT])?];
        let work = match tokens {
            0..=80 => Work::Bytes((weight.bytes() + x.bytes() + y.bytes()) as f64),
            _ => Work::Flops(2.0 * (tokens * OUT * IN) as f64),
        };
        let shape = Shape { m: tokens, n: OUT, k: IN };
        bench.run("linear", "nf4", shape, work, || linear::forward(&x, &weight, &mut y))?;
        bench.run("linear", "nf4 dx", shape, work, || linear::backward_input(&y, &weight, &mut x, false))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let values = (0..256 * 576).map(|i| (i as f32 * 0.37).sin()).collect();
    let Ok(w) = Tensor::from_vec(&Device::Cpu, values, &[256, 576]) else { return };
    let Ok(weight) = Nf4Tensor::quantize(&w, false).map(Weight::Nf4) else { return };
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(x), Ok(mut y)) = (zeros(&[64, 576]), zeros(&[64, 256])) else { return };
    criterion.bench_function("linear nf4 f32 64x256x576", |b| b.iter(|| linear::forward(&x, &weight, &mut y)));
}
