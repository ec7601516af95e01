//! Matrix products of a Llama 3 8B layer: forward (NT), gradient of the input (NN) and of the weight (TN).

use crate::harness::{Bench, Peer, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::gemm::{Layout, gemm};

/// A weight `[n, k]`, and what cuBLAS reaches with 4096 tokens, TFLOP/s: forward, input gradient, weight gradient.
const WEIGHTS: [(&str, usize, usize, [f64; 3]); 5] = [
    ("q, o", 4096, 4096, [784.0, 689.0, 689.0]),
    ("k, v", 1024, 4096, [756.0, 592.0, 687.0]),
    ("gate, up", 14336, 4096, [792.0, 724.0, 706.0]),
    ("down", 4096, 14336, [811.0, 687.0, 687.0]),
    ("head", 128_256, 4096, [705.0, 745.0, 706.0]),
];
const TOKENS: [usize; 3] = [768, 4096, 16384];

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    for (name, out, inputs, peers) in WEIGHTS {
        // The logits of more tokens would not fit beside the rest.
        for tokens in TOKENS.into_iter().filter(|&tokens| out * tokens <= 1 << 30) {
            for (i, (layout, [m, n, k])) in products(tokens, out, inputs).into_iter().enumerate() {
                let peer_ms = 2.0 * (m * n * k) as f64 / peers[i] / 1e9;
                let peer = (tokens == 4096).then_some(Peer { name: "cuBLAS", ms: peer_ms });
                run(bench, &format!("{name} {layout:?}"), layout, [m, n, k], peer)?;
            }
        }
    }
    for m in [1, 16, 64] {
        run(bench, "gate, up Nt", Layout::Nt, [m, 14336, 4096], None)?;
    }
    Ok(())
}

/// The three products of a linear layer, as m, n, k.
fn products(tokens: usize, out: usize, inputs: usize) -> [(Layout, [usize; 3]); 3] {
    [(Layout::Nt, [tokens, out, inputs]), (Layout::Nn, [tokens, inputs, out]), (Layout::Tn, [out, inputs, tokens])]
}

fn run(
    bench: &mut Bench,
    variant: &str,
    layout: Layout,
    [m, n, k]: [usize; 3],
    peer: Option<Peer>,
) -> anyhow::Result<()> {
    let a = bench.normal(DType::Bf16, &if layout == Layout::Tn { [k, m] } else { [m, k] })?;
    let b = bench.normal(DType::Bf16, &if layout == Layout::Nt { [n, k] } else { [k, n] })?;
    let mut c = Tensor::zeros(bench.device(), DType::Bf16, &[m, n])?;
    let shape = Shape { m, n, k };
    // Few rows are bound by reading the weight.
    let work = match m {
        0..=64 => Work::Bytes(2.0 * (m * k + n * k + m * n) as f64),
        _ => Work::Flops(2.0 * (m * n * k) as f64),
    };
    bench.run("gemm", variant, shape, work, peer, || gemm(layout, &a, &b, &mut c, false))
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
