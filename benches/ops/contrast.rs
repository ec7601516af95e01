//! The loss of the paper's batch, from the states of its tokens and back.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::contrast::{self, Contrast, Direction, Loss};
use kiungo::ops::pooling::Pooling;
use kiungo::ops::sequences::Sequences;

const HIDDEN: usize = 4096;
const PAIRS: usize = 8;
const TOKENS: usize = 4;

struct Batch {
    sequences: Sequences,
    pooled: Tensor,
    dpooled: Tensor,
    loss: Tensor,
    dh: Tensor,
}

impl Batch {
    fn new(device: &Device, dtype: DType, hidden: usize) -> anyhow::Result<Batch> {
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape);
        Ok(Batch {
            sequences: Sequences::new(device, &[TOKENS; 2 * PAIRS])?,
            pooled: zeros(DType::F32, &[2 * PAIRS, hidden])?,
            dpooled: zeros(DType::F32, &[2 * PAIRS, hidden])?,
            loss: zeros(DType::F32, &[1])?,
            dh: zeros(dtype, &[2 * PAIRS * TOKENS, hidden])?,
        })
    }

    fn run(&mut self, h: &Tensor, loss: Loss) -> kiungo::ops::Result {
        let Batch { sequences, pooled, dpooled, loss: value, dh } = self;
        let what = Contrast { sequences, pooling: Pooling::Mean, loss, direction: Direction::Both, excluded: None };
        contrast::forward_backward(h, &what, pooled, dpooled, value, dh)
    }
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let mut batch = Batch::new(bench.device(), DType::Bf16, HIDDEN)?;
    let h = bench.normal(DType::Bf16, batch.dh.shape())?;
    let work = Work::Bytes(2.0 * h.bytes() as f64);
    let shape = Shape { m: h.rows(), n: PAIRS, k: HIDDEN };
    bench.run("contrast", "infonce", shape, work, || batch.run(&h, Loss::Infonce { temperature: 0.05 }))?;
    bench.run("contrast", "triplet", shape, work, || batch.run(&h, Loss::Triplet { margin: 0.4 }))
}

pub fn cpu(criterion: &mut Criterion) {
    let Ok(mut batch) = Batch::new(&Device::Cpu, DType::F32, 576) else { return };
    let Ok(h) = Tensor::zeros(&Device::Cpu, DType::F32, batch.dh.shape()) else { return };
    criterion.bench_function("contrast 8x576", |b| b.iter(|| batch.run(&h, Loss::Triplet { margin: 0.4 })));
}
