//! A linear layer in NF4 with a low-rank adapter: `y = x W^T + scale (x A^T) B^T`, and its gradients.
//!
//!     cargo run --release --example lora_linear

use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::lora::{self, Factors};
use kiungo::ops::nf4::Nf4Tensor;
use std::error::Error;

const TOKENS: usize = 16;
const IN: usize = 128;
const OUT: usize = 192;
const RANK: usize = 8;

/// Values between -1 and 1 that look random.
fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i + 1).wrapping_mul(2_654_435_761 ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// The output, and the gradients of A, B and x for a gradient of ones.
fn run(device: &Device) -> Result<[Vec<f32>; 4], Box<dyn Error>> {
    let f32s = |n, seed, shape: &[usize]| Tensor::from_vec(device, values(n, seed), shape);
    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape);
    let weight = Weight::Nf4(Nf4Tensor::quantize(&f32s(OUT * IN, 1, &[OUT, IN])?, false)?);
    let (a, b) = (f32s(RANK * IN, 2, &[RANK, IN])?, f32s(OUT * RANK, 3, &[OUT, RANK])?);
    let factors = Factors::new(&a, &b, 2.0);

    let x = f32s(TOKENS * IN, 4, &[TOKENS, IN])?;
    let (mut s, mut y) = (zeros(&[TOKENS, RANK])?, zeros(&[TOKENS, OUT])?);
    linear::forward(&x, &weight, &mut y)?;
    lora::forward(&x, &factors, &mut s, &mut y)?;

    let dy = Tensor::from_vec(device, vec![1.0f32; TOKENS * OUT], &[TOKENS, OUT])?;
    let (mut ds, mut da, mut db) = (zeros(&[TOKENS, RANK])?, zeros(&[RANK, IN])?, zeros(&[OUT, RANK])?);
    let mut dx = zeros(&[TOKENS, IN])?;
    linear::backward_input(&dy, &weight, &mut dx, false)?;
    lora::backward(&dy, &x, &s, &factors, &mut ds, &mut da, &mut db, Some(&mut dx))?;
    Ok([y.to_vec()?, da.to_vec()?, db.to_vec()?, dx.to_vec()?])
}

fn main() -> Result<(), Box<dyn Error>> {
    let reference = run(&Device::Cpu)?;
    match Device::cuda(0) {
        Err(why) => println!("on the CPU; no GPU is used: {why}"),
        Ok(gpu) => {
            println!("on {gpu}, and on the CPU");
            for (found, expected) in run(&gpu)?.iter().zip(&reference) {
                let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
                let largest = expected.iter().fold(0.0f32, |m, e| m.max(e.abs()));
                assert!(worst <= 1e-4 * largest, "off by {worst} of {largest}");
            }
            println!("both agree to 1e-4");
        }
    }
    for (name, values) in ["y", "dA", "dB", "dx"].iter().zip(&reference) {
        println!("{name:2} {:6} values, the first {:?}", values.len(), &values[..3]);
    }
    Ok(())
}
