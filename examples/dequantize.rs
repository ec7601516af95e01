//! A weight that transformers and bitsandbytes stored in NF4, as bf16.
//!
//!     cargo run --release --example dequantize [FILE.safetensors TENSOR]
//!
//! Without arguments it takes a small file of the tests, which also holds what bitsandbytes makes of the weight.

use half::bf16;
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::nf4;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::ops::nf4::dequantize;
use std::error::Error;
use std::path::Path;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nf4/double/model.safetensors");
const TENSOR: &str = "model.layers.0.self_attn.q_proj.weight";

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::cuda(0).unwrap_or_else(|why| {
        println!("no GPU is used: {why}");
        Device::Cpu
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, tensor) = match arguments.as_slice() {
        [] => (FILE, TENSOR),
        [file, tensor] => (file.as_str(), tensor.as_str()),
        _ => return Err("usage: dequantize [FILE.safetensors TENSOR]".into()),
    };

    let checkpoint = Checkpoint::open_file(Path::new(file))?;
    let shape = nf4::shape(&checkpoint, tensor)?;
    let weight = nf4::read(&checkpoint, tensor, shape, &device)?;
    let mut dense = Tensor::zeros(&device, DType::Bf16, &shape)?;
    dequantize(&weight, &mut dense)?;

    let values = dense.to_vec::<bf16>()?;
    println!("{tensor} {shape:?} on {device}: {} bytes in 4 bits, {} in bf16", weight.bytes(), dense.bytes());
    println!("first row begins {:?}", &values[..values.len().min(4)]);
    let theirs = tensor.replace(".weight", ".dequantized");
    if checkpoint.contains(&theirs) {
        let theirs = checkpoint.read(&theirs, DType::Bf16, &Device::Cpu)?;
        assert_eq!(values, theirs.as_slice::<bf16>()?);
        println!("bit for bit what bitsandbytes makes of it");
    }
    Ok(())
}
