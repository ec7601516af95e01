//! Matrix products of a Llama 3 8B layer: forward (NT), gradient of the input (NN) and of the weight (TN).

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::gemm::{Layout, gemm};

/// The weights, `[n, k]`.
const WEIGHTS: [(&str, usize, usize); 5] = [
    ("q/o", 4096, 4096),
    ("k/v", 1024, 4096),
    ("gate/up", 14336, 4096),
    ("down", 4096, 14336),
    ("head", 128_256, 4096),
];
const TOKENS: [usize; 9] = [1, 16, 64, 128, 512, 768, 1024, 4096, 16384];

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for (name, outputs, inputs) in WEIGHTS {
        let weight = bench.normal(DType::Bf16, &[outputs, inputs])?;
        // The logits of more tokens would not fit beside the rest.
        for tokens in TOKENS.into_iter().filter(|&tokens| outputs * tokens <= 1 << 30) {
            let (x, dy) =
                (bench.normal(DType::Bf16, &[tokens, inputs])?, bench.normal(DType::Bf16, &[tokens, outputs])?);
            let shape = Shape { m: tokens, n: outputs, k: inputs };
            let mut run = |layout, name: String, a: &Tensor, b: &Tensor, [m, n]: [usize; 2]| {
                let mut c = Tensor::zeros(bench.device(), DType::Bf16, &[m, n])?;
                // Few rows are bound by reading the weight.
                let work = match tokens {
                    0..=128 => Work::Bytes((a.bytes() + b.bytes() + c.bytes()) as f64),
                    _ => Work::Flops(2.0 * (tokens * outputs * inputs) as f64),
                };
                bench.run("gemm", name, shape, work, || gemm(layout, a, b, &mut c, false))
            };
            run(Layout::Nt, format!("{name} nt"), &x, &weight, [tokens, outputs])?;
            run(Layout::Nn, format!("{name} nn"), &dy, &weight, [tokens, inputs])?;
            if tokens >= 64 {
                run(Layout::Tn, format!("{name} tn"), &dy, &x, [outputs, inputs])?;
            }
        }
    }
    Ok(())
}

pub fn cpu(criterion: &mut Criterion) {
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        let [a, b] = [0.5f32, 0.25].map(|x| Tensor::from_vec(&Device::Cpu, vec![x; 512 * 512], &[512, 512]));
        let (Ok(a), Ok(b), Ok(mut c)) = (a, b, Tensor::zeros(&Device::Cpu, DType::F32, &[512, 512])) else { return };
        criterion.bench_function(&format!("gemm {layout:?} f32 512x512x512"), |x| {
            x.iter(|| gemm(layout, &a, &b, &mut c, false))
        });
    }
}
