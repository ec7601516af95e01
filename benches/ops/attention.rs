//! Causal attention with the heads of a Llama 3 8B (32 query and 8 key heads of 128 features) and with heads of 64:
//! long sequences, bound by arithmetic, and many short ones, bound by memory.

use crate::harness::{Bench, Shape, Work};
use criterion::Criterion;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::sequences::Sequences;

const LONG_TOKENS: usize = 16384;
const SHORT_SEQUENCES: usize = 1024;

/// What is counted: each query with half of the keys of its sequence; each operand once.
struct Floor {
    forward: Work,
    backward: Work,
}

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let heads = |dim| Heads { query: 32, key_value: 8, dim };
    for dim in [128, 64] {
        for length in [2048, 4096, 8192] {
            let floor = flops(length, heads(dim));
            run(bench, &vec![length; LONG_TOKENS / length], heads(dim), floor)?;
        }
        for length in [8, 16, 32] {
            let floor = bytes(length, heads(dim));
            run(bench, &[length; SHORT_SEQUENCES], heads(dim), floor)?;
        }
    }
    Ok(())
}

/// Two products forward and five backward, each `2 * length^2 / 2 * dim` a head and sequence.
fn flops(length: usize, heads: Heads) -> Floor {
    let product = (LONG_TOKENS * length * heads.dim * heads.query) as f64;
    Floor { forward: Work::Flops(2.0 * product), backward: Work::Flops(5.0 * product) }
}

/// Forward reads q, k and v and writes o and lse; backward reads all those and d_o, and writes dq, dk and dv.
fn bytes(length: usize, heads: Heads) -> Floor {
    let tokens = SHORT_SEQUENCES * length;
    let [q, k] = [heads.query, heads.key_value].map(|h| (2 * tokens * h * heads.dim) as f64);
    let lse = (4 * tokens * heads.query) as f64;
    Floor { forward: Work::Bytes(2.0 * q + 2.0 * k + lse), backward: Work::Bytes(4.0 * q + 4.0 * k + lse) }
}

fn run(bench: &mut Bench, lengths: &[usize], heads: Heads, floor: Floor) -> anyhow::Result<()> {
    let tokens = lengths.iter().sum();
    let (queries, keys) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
    let sequences = Sequences::new(bench.device(), lengths)?;
    let [q, d_o] = [bench.normal(DType::Bf16, &queries)?, bench.normal(DType::Bf16, &queries)?];
    let [k, v] = [bench.normal(DType::Bf16, &keys)?, bench.normal(DType::Bf16, &keys)?];
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(bench.device(), dtype, shape);
    let [mut o, mut dq] = [zeros(DType::Bf16, &queries)?, zeros(DType::Bf16, &queries)?];
    let [mut dk, mut dv] = [zeros(DType::Bf16, &keys)?, zeros(DType::Bf16, &keys)?];
    let statistics = [tokens, heads.query];
    let [mut lse, mut delta] = [zeros(DType::F32, &statistics)?, zeros(DType::F32, &statistics)?];
    // m tokens in sequences of n, heads of k features.
    let shape = Shape { m: tokens, n: sequences.max_length(), k: heads.dim };
    bench.run("attention", "forward", shape, floor.forward, || {
        attention::forward(&q, &k, &v, &sequences, heads, &mut o, &mut lse)
    })?;
    bench.run("attention", "backward", shape, floor.backward, || {
        attention::backward(&d_o, &q, &k, &v, &o, &lse, &sequences, heads, &mut dq, &mut dk, &mut dv, &mut delta)
    })
}

pub fn cpu(criterion: &mut Criterion) {
    let heads = Heads { query: 9, key_value: 3, dim: 64 };
    let zeros = |columns: usize| Tensor::zeros(&Device::Cpu, DType::F32, &[256, columns]);
    let (Ok(q), Ok(k), Ok(v)) = (zeros(576), zeros(192), zeros(192)) else { return };
    let (Ok(mut o), Ok(mut lse), Ok(sequences)) = (zeros(576), zeros(9), Sequences::new(&Device::Cpu, &[256])) else {
        return;
    };
    criterion.bench_function("attention forward f32 256 tokens, 9:3 heads of 64", |bench| {
        bench.iter(|| attention::forward(&q, &k, &v, &sequences, heads, &mut o, &mut lse))
    });
}
