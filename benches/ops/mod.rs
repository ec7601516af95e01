//! The benchmarks, one file an op; and two jobs that are made of many, on a GPU alone: `embed` and `load`.

mod adamw;
mod attention;
mod clip;
mod contrast;
mod convert;
mod cosine;
mod cross_entropy;
mod embed;
mod embedding;
mod gemm;
mod infonce;
mod linear;
mod load;
mod lora;
mod nf4;
mod normal;
mod pairs;
mod philox;
mod pooling;
mod residual;
mod rmsnorm;
mod rope;
mod similarity;
mod step;
mod swiglu;
mod triplet;

use crate::harness::Bench;
use criterion::Criterion;

type Run = fn(&mut Bench) -> anyhow::Result<()>;
type Reference = fn(&mut Criterion);

/// Every op that has a benchmark.
pub const ALL: [(&str, Run); 28] = [
    ("adamw", adamw::gpu),
    ("attention", attention::gpu),
    ("clip", clip::gpu),
    ("contrast", contrast::gpu),
    ("convert", convert::gpu),
    ("cosine", cosine::gpu),
    ("cross_entropy", cross_entropy::gpu),
    ("embed", embed::gpu),
    ("embedding", embedding::gpu),
    ("full-step", crate::step::full::gpu),
    ("gemm", gemm::gpu),
    ("infonce", infonce::gpu),
    ("linear", linear::gpu),
    ("load", load::gpu),
    ("lora", lora::gpu),
    ("nf4", nf4::gpu),
    ("normal", normal::gpu),
    ("pairs", pairs::gpu),
    ("philox", philox::gpu),
    ("pooling", pooling::gpu),
    ("residual", residual::gpu),
    ("rmsnorm", rmsnorm::gpu),
    ("rope", rope::gpu),
    ("similarity", similarity::gpu),
    ("step", step::gpu),
    ("swiglu", swiglu::gpu),
    ("triplet", triplet::gpu),
    ("word-step", crate::step::word::gpu),
];

/// The CPU references of the ops that are wanted.
pub fn cpu(criterion: &mut Criterion, wanted: impl Fn(&str) -> bool) {
    let all: [(&str, Reference); 24] = [
        ("adamw", adamw::cpu),
        ("attention", attention::cpu),
        ("clip", clip::cpu),
        ("contrast", contrast::cpu),
        ("convert", convert::cpu),
        ("cosine", cosine::cpu),
        ("cross_entropy", cross_entropy::cpu),
        ("embedding", embedding::cpu),
        ("gemm", gemm::cpu),
        ("infonce", infonce::cpu),
        ("linear", linear::cpu),
        ("lora", lora::cpu),
        ("nf4", nf4::cpu),
        ("normal", normal::cpu),
        ("pairs", pairs::cpu),
        ("philox", philox::cpu),
        ("pooling", pooling::cpu),
        ("residual", residual::cpu),
        ("rmsnorm", rmsnorm::cpu),
        ("rope", rope::cpu),
        ("similarity", similarity::cpu),
        ("step", step::cpu),
        ("swiglu", swiglu::cpu),
        ("triplet", triplet::cpu),
    ];
    for (op, run) in all {
        if wanted(op) {
            run(criterion);
        }
    }
}
