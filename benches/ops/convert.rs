//! A checkpoint's values to a tensor's: one read of the stored bytes, one write.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, DeviceError, Tensor};
use kiungo::ops::convert::{Report, Stored, convert};

/// Bytes of zeros, which are zeros of any type.
fn stored(device: &Device, stored: Stored, count: usize) -> Result<Tensor, DeviceError> {
    Tensor::zeros(device, DType::U8, &[count * stored.size()])
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let shape = Shape { m: 0, n: 14336, k: 4096 };
    for from in [Stored::F32, Stored::F16, Stored::Bf16] {
        let x = stored(bench.device(), from, shape.n * shape.k)?;
        let mut y = Tensor::zeros(bench.device(), DType::Bf16, &[shape.n, shape.k])?;
        let mut report = Report::new(bench.device(), 1)?;
        let work = Work::Bytes((x.bytes() + y.bytes()) as f64);
        bench.run("convert", from.to_string(), shape, work, || convert(&x, from, 0, &mut y, &mut report))?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let device = &Device::Cpu;
    let (Ok(x), Ok(mut y)) = (stored(device, Stored::Bf16, 256 * 576), Tensor::zeros(device, DType::F32, &[256, 576]))
    else {
        return;
    };
    let Ok(mut report) = Report::new(device, 1) else { return };
    criterion.bench_function("convert bf16 to f32 256x576", |b| {
        b.iter(|| convert(&x, Stored::Bf16, 0, &mut y, &mut report));
    });
}
