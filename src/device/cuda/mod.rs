//! NVIDIA GPUs: what is there, and one of them as an [`Executor`](super::Executor).

mod attributes;
mod cards;
mod driver;
mod graph;
mod host_pages;
mod kernels;
#[doc(hidden)]
pub mod recent;
#[doc(hidden)]
pub mod support;

pub use cards::{Card, HOPPER, card, device_count, driver_version};
pub use driver::Driver;
pub use kernels::{fatbins, has_kernels, nvcc_version, targets};
