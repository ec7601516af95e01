//! The benchmarks, one file an op.

mod gemm;
mod lora;
mod rmsnorm;

use crate::harness::Bench;
use criterion::Criterion;

type Run = fn(&mut Bench) -> anyhow::Result<()>;
type Reference = fn(&mut Criterion);

/// Every op that has a benchmark.
pub const ALL: [(&str, Run); 3] = [("gemm", gemm::gpu), ("lora", lora::gpu), ("rmsnorm", rmsnorm::gpu)];

/// The CPU references of the ops that are wanted.
pub fn cpu(criterion: &mut Criterion, wanted: impl Fn(&str) -> bool) {
    let all: [(&str, Reference); 3] = [("gemm", gemm::cpu), ("lora", lora::cpu), ("rmsnorm", rmsnorm::cpu)];
    for (op, run) in all {
        if wanted(op) {
            run(criterion);
        }
    }
}
