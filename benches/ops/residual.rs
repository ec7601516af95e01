//! The residual stream of a Llama 3 8B.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::residual;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    const HIDDEN: usize = 4096;
    for tokens in [768, 16384] {
        let mut x = bench.normal(DType::Bf16, &[tokens, HIDDEN])?;
        let y = Tensor::zeros(bench.device(), DType::Bf16, &[tokens, HIDDEN])?;
        let shape = Shape { m: tokens, n: HIDDEN, k: 0 };
        bench.run("residual", "add", shape, Work::Bytes(3.0 * x.bytes() as f64), || residual::add(&mut x, &y))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = || Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]);
    let (Ok(mut x), Ok(y)) = (zeros(), zeros()) else { return };
    criterion.bench_function("residual add f32 256x576", |b| b.iter(|| residual::add(&mut x, &y)));
}
