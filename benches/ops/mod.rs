//! The benchmarks, one file an op; and two jobs that are made of many, on a GPU alone: `embed` and `load`.

mod adamw;
mod attention;
mod cross_entropy;
mod embed;
mod embedding;
mod gemm;
mod linear;
mod load;
mod lora;
mod nf4;
mod pairs;
mod pooling;
mod residual;
mod rmsnorm;
mod rope;
mod swiglu;

use crate::harness::Bench;
use criterion::Criterion;

type Run = fn(&mut Bench) -> anyhow::Result<()>;
type Reference = fn(&mut Criterion);

/// Every op that has a benchmark.
pub const ALL: [(&str, Run); 18] = [
    ("adamw", adamw::gpu),
    ("attention", attention::gpu),
    ("cross_entropy", cross_entropy::gpu),
    ("embed", embed::gpu),
    ("embedding", embedding::gpu),
    ("full-step", crate::step::full::gpu),
    ("gemm", gemm::gpu),
    ("linear", linear::gpu),
    ("load", load::gpu),
    ("lora", lora::gpu),
    ("nf4", nf4::gpu),
    ("pairs", pairs::gpu),
    ("pooling", pooling::gpu),
    ("residual", residual::gpu),
    ("rmsnorm", rmsnorm::gpu),
    ("rope", rope::gpu),
    ("swiglu", swiglu::gpu),
    ("word-step", crate::step::word::gpu),
];

/// The CPU references of the ops that are wanted.
pub fn cpu(criterion: &mut Criterion, wanted: impl Fn(&str) -> bool) {
    let all: [(&str, Reference); 14] = [
        ("adamw", adamw::cpu),
        ("attention", attention::cpu),
        ("cross_entropy", cross_entropy::cpu),
        ("embedding", embedding::cpu),
        ("gemm", gemm::cpu),
        ("linear", linear::cpu),
        ("lora", lora::cpu),
        ("nf4", nf4::cpu),
        ("pairs", pairs::cpu),
        ("pooling", pooling::cpu),
        ("residual", residual::cpu),
        ("rmsnorm", rmsnorm::cpu),
        ("rope", rope::cpu),
        ("swiglu", swiglu::cpu),
    ];
    for (op, run) in all {
        if wanted(op) {
            run(criterion);
        }
    }
}
