//! The benchmarks, one file an op.

mod attention;
mod gemm;
mod lora;
mod nf4;
mod rmsnorm;

use crate::harness::Bench;
use criterion::Criterion;

type Run = fn(&mut Bench) -> anyhow::Result<()>;
type Reference = fn(&mut Criterion);

/// Every op that has a benchmark.
pub const ALL: [(&str, Run); 5] = [
    ("attention", attention::gpu),
    ("gemm", gemm::gpu),
    ("lora", lora::gpu),
    ("nf4", nf4::gpu),
    ("rmsnorm", rmsnorm::gpu),
];

/// The CPU references of the ops that are wanted.
pub fn cpu(criterion: &mut Criterion, wanted: impl Fn(&str) -> bool) {
    let all: [(&str, Reference); 5] = [
        ("attention", attention::cpu),
        ("gemm", gemm::cpu),
        ("lora", lora::cpu),
        ("nf4", nf4::cpu),
        ("rmsnorm", rmsnorm::cpu),
    ];
    for (op, run) in all {
        if wanted(op) {
            run(criterion);
        }
    }
}
