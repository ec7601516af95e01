//! RMSNorm over the rows of a Llama 3 8B.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::rmsnorm;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    const HIDDEN: usize = 4096;
    for tokens in [768, 16384] {
        let [x, dy] = [bench.normal(DType::Bf16, &[tokens, HIDDEN])?, bench.normal(DType::Bf16, &[tokens, HIDDEN])?];
        let weight = bench.normal(DType::F32, &[HIDDEN])?;
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(bench.device(), dtype, shape);
        let (mut y, mut inv_rms) = (zeros(DType::Bf16, &[tokens, HIDDEN])?, zeros(DType::F32, &[tokens])?);
        let (mut dx, mut dweight) = (zeros(DType::Bf16, &[tokens, HIDDEN])?, zeros(DType::F32, &[HIDDEN])?);
        let shape = Shape { m: tokens, n: HIDDEN, k: 0 };
        let pass = (2 * tokens * HIDDEN) as f64;
        bench.run("rmsnorm", "forward", shape, Work::Bytes(2.0 * pass), || {
            rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms)
        })?;
        let mut sum = bench.normal(DType::Bf16, &[tokens, HIDDEN])?;
        bench.run("rmsnorm", "forward residual", shape, Work::Bytes(4.0 * pass), || {
            rmsnorm::forward_residual(&mut sum, &dy, &weight, 1e-5, &mut y, &mut inv_rms)
        })?;
        bench.run("rmsnorm", "backward frozen", shape, Work::Bytes(4.0 * pass), || {
            rmsnorm::backward(&dy, &x, &weight, &inv_rms, &mut dx, None)
        })?;
        bench.run("rmsnorm", "backward", shape, Work::Bytes(4.0 * pass), || {
            rmsnorm::backward(&dy, &x, &weight, &inv_rms, &mut dx, Some(&mut dweight))
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(x), Ok(weight)) = (zeros(&[256, 576]), zeros(&[576])) else { return };
    let (Ok(mut y), Ok(mut inv_rms)) = (zeros(&[256, 576]), zeros(&[256])) else { return };
    criterion.bench_function("rmsnorm forward f32 256x576", |b| {
        b.iter(|| rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms))
    });
}
