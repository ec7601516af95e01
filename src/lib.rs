//! Kiungo aligns two languages in a Llama, by low-rank adapters in early blocks or by training all weights, and
//! scores cross-lingual retrieval before and after. It runs on CUDA kernels of its own, or on the CPU.
//!
//! The house, from the top: [`commands`] parse, call and print; [`training`], [`retrieval`] and [`report`] do the
//! work; [`llama`] is the model; [`ops`] are its operations, one file each; [`device`] is memory and launches.
//! [`formats`] reads and writes files, and makes models of them. Arrows point down only.
//!
//! [`ops`] serve by themselves, too: on a caller's CUDA stream and buffers ([`device`]), or on the CPU. `examples/` shows how.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod commands;
// Launches, the driver's calls, and pinned memory; a call into `gemm` on the CPU.
#[allow(unsafe_code)]
pub mod device;
pub mod formats;
pub mod llama;
pub mod ops;
pub mod report;
pub mod retrieval;
pub mod training;
mod words;

/// The version of cudarc whose streams and slices [`device`] takes.
pub use cudarc;
