//! The gated activation of a Llama 3 8B.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::swiglu;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    const WIDTH: usize = 14336;
    for tokens in [768, 4096] {
        let mut normal = || bench.normal(DType::Bf16, &[tokens, WIDTH]);
        let (gate, up, dy) = (normal()?, normal()?, normal()?);
        let zeros = || Tensor::zeros(bench.device(), DType::Bf16, &[tokens, WIDTH]);
        let (mut y, mut dgate, mut dup) = (zeros()?, zeros()?, zeros()?);
        let shape = Shape { m: tokens, n: WIDTH, k: 0 };
        let pass = (2 * tokens * WIDTH) as f64;
        bench.run("swiglu", "forward", shape, Work::Bytes(3.0 * pass), || swiglu::forward(&gate, &up, &mut y))?;
        bench.run("swiglu", "backward", shape, Work::Bytes(5.0 * pass), || {
            swiglu::backward(&dy, &gate, &up, &mut dgate, &mut dup)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = || Tensor::zeros(&Device::Cpu, DType::F32, &[256, 1536]);
    let (Ok(gate), Ok(up), Ok(mut y)) = (zeros(), zeros(), zeros()) else { return };
    criterion.bench_function("swiglu forward f32 256x1536", |b| b.iter(|| swiglu::forward(&gate, &up, &mut y)));
}
