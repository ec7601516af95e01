//! Rows over their lengths, of a batch's vectors and of a data set's.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::cosine;

const HIDDEN: usize = 4096;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for n in [128, 16384] {
        let shape = Shape { m: n, n: HIDDEN, k: 0 };
        let (x, dy) = (bench.normal(DType::F32, &[n, HIDDEN])?, bench.normal(DType::F32, &[n, HIDDEN])?);
        let zeros = |shape: &[usize]| Tensor::zeros(bench.device(), DType::F32, shape);
        let (mut y, mut dx, mut norm) = (zeros(x.shape())?, zeros(x.shape())?, zeros(&[n])?);
        // Forward reads x and writes y; backward reads dy and y and writes dx.
        let bytes = x.bytes() as f64;
        bench.run("cosine", "fwd", shape, Work::Bytes(2.0 * bytes), || cosine::normalize(&x, &mut y, &mut norm))?;
        bench.run("cosine", "bwd", shape, Work::Bytes(3.0 * bytes), || {
            cosine::normalize_backward(&dy, &y, &norm, &mut dx)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
    let (Ok(x), Ok(mut y), Ok(mut norm)) = (zeros(&[128, 576]), zeros(&[128, 576]), zeros(&[128])) else { return };
    criterion.bench_function("cosine 128x576", |b| b.iter(|| cosine::normalize(&x, &mut y, &mut norm)));
}
