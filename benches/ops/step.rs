//! What a step has found out: the gradient's norm from its sums of squares, and the record for the host. One block, so what
//! it takes is latency.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Staging, Tensor};
use kiungo::ops::adamw::AdamW;
use kiungo::ops::step::{self, Metrics, State, Status};

/// A step's loss, squares and state.
struct Step {
    loss: Tensor,
    squares: Tensor,
    state: State,
    status: Status,
    metrics: Metrics,
}

impl Step {
    fn new(device: &Device, sums: usize) -> anyhow::Result<Step> {
        let zeros = |n| Tensor::zeros(device, DType::F32, &[n]);
        let (mut state, mut staging) = (State::new(device)?, Staging::new(device, 1, State::BYTES)?);
        staging.begin();
        state.set(&mut staging, 1, 1, AdamW::default().coefficients(1), Some(1.0))?;
        let (status, metrics) = (Status::new(device)?, Metrics::new(device, 4)?);
        Ok(Step { loss: zeros(1)?, squares: zeros(sums)?, state, status, metrics })
    }

    fn judge(&mut self) -> kiungo::ops::Result {
        step::judge(&self.loss, &self.squares, &self.state, &mut self.status, &mut self.metrics)
    }
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    // Of the adapters of a few blocks, and of all weights of a Llama 3 8B.
    for sums in [64, 1 << 19] {
        let mut step = Step::new(bench.device(), sums)?;
        let work = Work::Bytes(step.squares.bytes() as f64);
        bench.run("step", "judge", Shape { m: 0, n: sums, k: 0 }, work, || step.judge())?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let Ok(mut step) = Step::new(&Device::Cpu, 64) else { return };
    criterion.bench_function("step judge 64", |b| b.iter(|| step.judge()));
}
