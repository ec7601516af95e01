//! An op on a stream and on buffers that are the caller's own, by cudarc: no copies, and in order with its other work.
//!
//!     cargo run --release --example own_stream

use half::bf16;
use kiungo::cudarc::driver::{CudaContext, CudaSlice};
use kiungo::device::{DType, Device, Gpu, Tensor};
use kiungo::ops::rmsnorm;
use std::error::Error;

const TOKENS: usize = 1000;
const HIDDEN: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let x: Vec<bf16> = (0..TOKENS * HIDDEN).map(|i| bf16::from_f32((i % 97) as f32 / 48.0 - 1.0)).collect();
    let weight = vec![1.0f32; HIDDEN];
    if let Err(why) = Device::cuda(0) {
        println!("no GPU is used: {why}");
        return on_the_cpu(&x, &weight);
    }

    // The caller's context, stream and buffers.
    let stream = CudaContext::new(0)?.new_stream()?;
    let x = stream.clone_htod(&x)?;
    let weight = stream.clone_htod(&weight)?;
    let mut y: CudaSlice<bf16> = stream.alloc_zeros(TOKENS * HIDDEN)?;
    let mut inv_rms: CudaSlice<f32> = stream.alloc_zeros(TOKENS)?;

    let gpu = Gpu::on_stream(stream.clone())?;
    // The first rows alone: a view will do.
    for rows in [TOKENS, 128] {
        let x = Tensor::borrow(&gpu, x.slice(..rows * HIDDEN), &[rows, HIDDEN])?;
        let weight = Tensor::borrow(&gpu, weight.as_view(), &[HIDDEN])?;
        let mut y = Tensor::borrow_mut(&gpu, &mut y, &[TOKENS, HIDDEN])?;
        let mut inv_rms = Tensor::borrow_mut(&gpu, &mut inv_rms, &[TOKENS])?;
        y.set_rows(rows)?;
        inv_rms.set_rows(rows)?;
        rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms)?;
    }
    // The copy is queued behind the ops: the stream orders them.
    let y = stream.clone_dtoh(&y)?;
    println!("rmsnorm of {TOKENS} x {HIDDEN} on {}: y begins {:?}", gpu.name(), &y[..3]);
    Ok(())
}

fn on_the_cpu(x: &[bf16], weight: &[f32]) -> Result<(), Box<dyn Error>> {
    let x = Tensor::from_slice(&Device::Cpu, x, &[TOKENS, HIDDEN])?;
    let weight = Tensor::from_slice(&Device::Cpu, weight, &[HIDDEN])?;
    let mut y = Tensor::zeros(&Device::Cpu, DType::Bf16, &[TOKENS, HIDDEN])?;
    let mut inv_rms = Tensor::zeros(&Device::Cpu, DType::F32, &[TOKENS])?;
    rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms)?;
    println!("rmsnorm of {TOKENS} x {HIDDEN} on the CPU: y begins {:?}", &y.as_slice::<bf16>()?[..3]);
    Ok(())
}
