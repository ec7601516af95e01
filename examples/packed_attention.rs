//! Causal attention over sequences of different lengths, packed without padding.
//!
//!     cargo run --release --example packed_attention

use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::sequences::Sequences;
use std::error::Error;

const HEADS: Heads = Heads { query: 4, key_value: 2, dim: 64 };
const LENGTHS: [usize; 3] = [5, 70, 1];

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i + 1).wrapping_mul(2_654_435_761 ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Attention over packed sequences: `q` is `[tokens, query * dim]`, `k` and `v` `[tokens, key_value * dim]`.
fn attend(device: &Device, lengths: &[usize], qkv: [&[f32]; 3]) -> Result<Vec<f32>, Box<dyn Error>> {
    let sequences = Sequences::new(device, lengths)?;
    let tokens = sequences.tokens();
    let tensor =
        |values: &[f32]| Tensor::from_f32(device, DType::Bf16, values.to_vec(), &[tokens, values.len() / tokens]);
    let [q, k, v] = qkv.map(tensor);
    let (q, k, v) = (q?, k?, v?);
    let mut o = Tensor::zeros(device, DType::Bf16, q.shape())?;
    let mut lse = Tensor::zeros(device, DType::F32, &[tokens, HEADS.query])?;
    attention::forward(&q, &k, &v, &sequences, HEADS, &mut o, &mut lse)?;
    Ok(o.to_f32()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::cuda(0).unwrap_or_else(|why| {
        println!("no GPU is used: {why}");
        Device::Cpu
    });
    let tokens: usize = LENGTHS.iter().sum();
    let (wide, narrow) = (HEADS.query * HEADS.dim, HEADS.key_value * HEADS.dim);
    let (q, k, v) = (values(tokens * wide, 1), values(tokens * narrow, 2), values(tokens * narrow, 3));
    let together = attend(&device, &LENGTHS, [&q, &k, &v])?;
    println!("{} sequences, {tokens} tokens, {} query heads of {} on {device}", LENGTHS.len(), HEADS.query, HEADS.dim);

    // No sequence sees another: each alone gives the same.
    let mut start = 0;
    for length in LENGTHS {
        let rows = |x: &'_ [f32], width: usize| x[start * width..(start + length) * width].to_vec();
        let alone = attend(&device, &[length], [&rows(&q, wide), &rows(&k, narrow), &rows(&v, narrow)])?;
        let worst = alone.iter().zip(&together[start * wide..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("sequence of {length:2}: alone and packed differ by at most {worst:.1e}");
        assert!(worst <= 1e-2);
        start += length;
    }
    Ok(())
}
