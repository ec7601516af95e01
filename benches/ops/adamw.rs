//! AdamW over 2^28 weights, the gradient read: as torch has it, weights, gradient and moments of one type, and with 8-bit
//! moments of bf16 weights; and the latter on a linear layer's weight whose gradient is made on the way, for few tokens.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::Staging;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::adamw::{self, AdamW, LinearLayer, Moments, Precision, Rounding};
use kiungo::ops::step::{self, State, Status};

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let shape = Shape { m: 0, n: 1 << 16, k: 4096 };
    let dims = [shape.n, shape.k];
    let variants = [
        ("f32 states", DType::F32, Precision::F32),
        ("f32 states, bf16 weights", DType::Bf16, Precision::F32),
        ("bf16 states", DType::Bf16, Precision::Bf16),
        ("8-bit states", DType::Bf16, Precision::Blocks8),
    ];
    for (name, dtype, precision) in variants {
        let (mut w, g) = (bench.normal(dtype, &dims)?, bench.normal(dtype, &dims)?);
        let mut moments = Moments::new(bench.device(), precision, &dims)?;
        let state: usize = moments.tensors().iter().map(|t| t.bytes()).sum();
        let work = Work::Bytes((2 * w.bytes() + g.bytes() + 2 * state) as f64);
        let (adamw, mut t) = (AdamW { lr: 1e-4, ..AdamW::default() }, 0);
        bench.run("adamw", name, shape, work, || {
            t += 1;
            adamw::update(&adamw, t, Rounding::default(), &mut w, &g, &mut moments, None)
        })?;
    }
    linear(bench)
}

/// Of Llama 3 8B, and q/o, k/v, gate/up, down apart. Bytes are those of weight and moments alone.
fn linear(bench: &mut Bench) -> anyhow::Result<()> {
    let device = bench.device().clone();
    let (mut state, mut status) = (State::new(&device)?, Status::new(&device)?);
    let mut staging = Staging::new(&device, 1, State::BYTES)?;
    staging.begin();
    state.set(&mut staging, 1, 1, AdamW { lr: 1e-4, ..AdamW::default() }.coefficients(1), None)?;
    step::begin(&Tensor::from_slice(&device, &[1.0f32], &[1])?, &mut status)?;
    for (name, outputs, inputs) in
        [("q/o", 4096, 4096), ("k/v", 1024, 4096), ("gate/up", 14336, 4096), ("down", 4096, 14336)]
    {
        for tokens in [16, 64, 128] {
            let shape = Shape { m: tokens, n: outputs, k: inputs };
            let (dy, x) =
                (bench.normal(DType::Bf16, &[tokens, outputs])?, bench.normal(DType::Bf16, &[tokens, inputs])?);
            let mut w = bench.normal(DType::Bf16, &[outputs, inputs])?;
            let mut moments = Moments::new(&device, Precision::Blocks8, &[outputs, inputs])?;
            let mut squares = Tensor::zeros(&device, DType::F32, &[adamw::update_linear_squares(w.len())])?;
            let held: usize = moments.tensors().iter().map(|t| t.bytes()).sum();
            let work = Work::Bytes((2 * w.bytes() + 2 * held) as f64);
            let rounding = Rounding::default();
            bench.run("adamw linear", name, shape, work, || {
                adamw::update_linear(&state, &status, rounding, &dy, &x, &mut w, &mut moments, None, &mut squares)
            })?;
        }
    }
    // With the gradient of x.
    for (name, outputs, inputs) in [
        ("q, k, v, dx", &[4096, 1024, 1024][..], 4096),
        ("o, dx", &[4096], 4096),
        ("gate, up, dx", &[14336, 14336], 4096),
        ("down, dx", &[4096], 14336),
    ] {
        let shape = Shape { m: 64, n: outputs.iter().sum(), k: inputs };
        let x = bench.normal(DType::Bf16, &[64, inputs])?;
        let mut dx = Tensor::zeros(&device, DType::Bf16, &[64, inputs])?;
        let mut tensors = vec![];
        for &outputs in outputs {
            let dy = bench.normal(DType::Bf16, &[64, outputs])?;
            let w = bench.normal(DType::Bf16, &[outputs, inputs])?;
            tensors.push((dy, w, Moments::new(&device, Precision::Blocks8, &[outputs, inputs])?));
        }
        let len = adamw::update_linear_squares(shape.n * inputs);
        let mut squares = Tensor::zeros(&device, DType::F32, &[len])?;
        let held = |(_, w, moments): &(Tensor, Tensor, Moments)| {
            w.bytes() + moments.tensors().iter().map(|t| t.bytes()).sum::<usize>()
        };
        let work = Work::Bytes(2.0 * tensors.iter().map(held).sum::<usize>() as f64);
        let rounding = Rounding::default();
        bench.run("adamw linear", name, shape, work, || {
            let layers =
                tensors.iter_mut().map(|(dy, w, moments)| LinearLayer { dy, w, moments, copy: None, rounding });
            let mut layers: Vec<_> = layers.collect();
            adamw::update_linears(&state, &status, &mut layers, &x, Some(&mut dx), &mut squares)
        })?;
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    let zeros = || Tensor::zeros(&Device::Cpu, DType::F32, &[256, 576]);
    for (name, precision) in [("f32", Precision::F32), ("8-bit", Precision::Blocks8)] {
        let (Ok(mut w), Ok(g)) = (zeros(), zeros()) else { return };
        let Ok(mut moments) = Moments::new(&Device::Cpu, precision, &[256, 576]) else { return };
        let adamw = AdamW::default();
        criterion.bench_function(&format!("adamw {name} moments 256x576"), |b| {
            b.iter(|| adamw::update(&adamw, 1, Rounding::default(), &mut w, &g, &mut moments, None))
        });
    }
}
