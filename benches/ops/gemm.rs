//! Matrix products of a Llama 3 8B layer: forward (NT), gradient of the input (NN) and of the weight (TN).

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::gemm::{Layout, gemm};

/// The weights, `[n, k]`.
const WEIGHTS: [(&str, usize, usize); 5] = [
    ("q, o", 4096, 4096),
    ("k, v", 1024, 4096),
    ("gate, up", 14336, 4096),
    ("down", 4096, 14336),
    ("head", 128_256, 4096),
];
const TOKENS: [usize; 3] = [768, 4096, 16384];

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for (name, out, inputs) in WEIGHTS {
        // The logits of more tokens would not fit beside the rest.
        for tokens in TOKENS.into_iter().filter(|&tokens| out * tokens <= 1 << 30) {
            for (layout, [m, n, k]) in products(tokens, out, inputs) {
                run(bench, &format!("{name} {layout:?}"), layout, [m, n, k])?;
            }
        }
    }
    for m in [1, 16, 64] {
        run(bench, "gate, up Nt", Layout::Nt, [m, 14336, 4096])?;
    }
    Ok(())
}

/// The three products of a linear layer, as m, n, k.
fn products(tokens: usize, out: usize, inputs: usize) -> [(Layout, [usize; 3]); 3] {
    [(Layout::Nt, [tokens, out, inputs]), (Layout::Nn, [tokens, inputs, out]), (Layout::Tn, [out, inputs, tokens])]
}

fn run(bench: &mut Bench, variant: &str, layout: Layout, [m, n, k]: [usize; 3]) -> anyhow::Result<()> {
    let a = bench.normal(DType::Bf16, &if layout == Layout::Tn { [k, m] } else { [m, k] })?;
    let b = bench.normal(DType::Bf16, &if layout == Layout::Nt { [n, k] } else { [k, n] })?;
    let mut c = Tensor::zeros(bench.device(), DType::Bf16, &[m, n])?;
    let shape = Shape { m, n, k };
    // Few rows are bound by reading the weight.
    let work = match m {
        0..=64 => Work::Bytes(2.0 * (m * k + n * k + m * n) as f64),
        _ => Work::Flops(2.0 * (m * n * k) as f64),
    };
    bench.run("gemm", variant, shape, work, || gemm(layout, &a, &b, &mut c, false))
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
