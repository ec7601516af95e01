//! NF4 of a Llama 3 8B weight: quantise and dequantise.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::nf4::{self, Nf4Tensor};

const OUT: usize = 14336;
const IN: usize = 4096;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let x = bench.normal(DType::Bf16, &[OUT, IN])?;
    let shape = Shape { m: 0, n: OUT, k: IN };
    let mut y = Tensor::zeros(bench.device(), DType::Bf16, &[OUT, IN])?;
    for (double, suffix) in [(false, ""), (true, " double")] {
        let mut quantized = Nf4Tensor::empty(bench.device(), [OUT, IN], double)?;
        let work = Work::Bytes((x.bytes() + quantized.bytes()) as f64);
        bench.run("nf4", format!("quantize{suffix}"), shape, work, || nf4::quantize(&x, &mut quantized))?;
        bench.run("nf4", format!("dequantize{suffix}"), shape, work, || nf4::dequantize(&quantized, &mut y))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let values = (0..256 * 576).map(|i| (i as f32 * 0.37).sin()).collect();
    let Ok(x) = Tensor::from_vec(&Device::Cpu, values, &[256, 576]) else { return };
    let Ok(mut quantized) = Nf4Tensor::empty(&Device::Cpu, [256, 576], false) else { return };
    let Ok(mut y) = Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]) else { return };
    criterion.bench_function("nf4 quantize f32 256x576", |b| b.iter(|| nf4::quantize(&x, &mut quantized)));
    criterion.bench_function("nf4 dequantize f32 256x576", |b| b.iter(|| nf4::dequantize(&quantized, &mut y)));
}
