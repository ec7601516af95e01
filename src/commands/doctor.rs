//! `kiungo doctor`: what this build and this machine can do.

use crate::device::{Device, cuda};
use clap::Args;

/// Say what this build and this machine can do
#[derive(Args)]
pub struct Doctor {}

impl Doctor {
    pub fn run(self) -> anyhow::Result<()> {
        println!("kiungo {}", env!("CARGO_PKG_VERSION"));
        let kernels: Vec<&str> = cuda::fatbins().iter().map(|(stem, _)| *stem).collect();
        match kernels.as_slice() {
            [] => println!("CUDA kernels   none: nvcc was not found when this binary was built"),
            some => println!("CUDA kernels   {} ({})", some.len(), some.join(", ")),
        }
        match cuda::driver_version() {
            Ok(version) => println!("driver         CUDA {version}"),
            Err(why) => println!("driver         {why}"),
        }
        match Device::cuda(0) {
            Ok(device) => println!("GPU            {device}"),
            Err(why) => println!("GPU            {why}"),
        }
        println!("CPU            {} threads", rayon::current_num_threads());
        Ok(())
    }
}
