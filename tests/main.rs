//! All integration tests in one binary, so that it can be carried to a machine with a GPU and no Rust.
//!
//! `ops/` mirrors `src/ops/`: each op against float64 or golden data on the CPU. `kernels/` mirrors `kernels/`: each
//! CUDA kernel against the CPU's op, on the emulator and, where there is one, on a GPU. `device/` is about memory and
//! streams that a caller holds.

mod commands;
mod device;
mod emulator;
mod formats;
mod fuzz;
mod kernels;
mod llama;
mod ops;
mod report;
mod retrieval;
mod safety;
mod support;
mod training;

/// So that tests see what is allocated, and what is left.
#[global_allocator]
static ALLOCATOR: support::Bounded = support::Bounded;
