//! All integration tests in one binary, so that it can be carried to a machine with a GPU and no Rust.
//!
//! `ops/` mirrors `src/ops/`: each op against float64 or golden data on the CPU, and its CUDA kernel against the
//! CPU reference, on the emulator and, where there is one, on a GPU.

mod commands;
mod formats;
mod llama;
mod ops;
mod report;
mod retrieval;
mod support;
mod training;
