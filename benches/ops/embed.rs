//! Passages of about 200 tokens through a Llama 3 8B of random weights, to unit vectors on the host.

use crate::harness::{Bench, Shape, Work};
use kiungo::device::DType;
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Options};
use kiungo::llama::{Layer, Parts, random};
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::embed::embed;

const PASSAGES: usize = 1600;
const LENGTH: usize = 200;
const RUNS: usize = 3;

pub fn gpu(bench: &mut Bench) -> anyhow::Result<()> {
    let config = Config::named("llama-3-8b").ok_or_else(|| anyhow::anyhow!("no llama-3-8b"))?;
    let device = bench.device().clone();
    // Lengths from half to one and a half times the mean, in no order.
    let lengths = (0..PASSAGES).map(|i| LENGTH / 2 + i * 7919 % (LENGTH + 1));
    let passages: Vec<Vec<u32>> = lengths.enumerate().map(|(i, n)| passage(&config, i, n)).collect();
    let texts: Vec<&[u32]> = passages.iter().map(Vec::as_slice).collect();
    let tokens: usize = texts.iter().map(|t| t.len()).sum();
    for (name, base) in [("nf4", Base::Nf4), ("bf16", Base::Bf16)] {
        for (layer, suffix) in [(Layer::Final, ""), (Layer::Hidden(2), " hidden(2)")] {
            let blocks = layer.blocks(&config);
            let parts = Parts { blocks, final_norm: layer == Layer::Final, head: false };
            let options = Options { parts, base, compute: DType::Bf16, device: &device, positions: 2 * LENGTH };
            let model = random::model(&config, options, 1)?;
            let shape = Shape { m: tokens, n: config.hidden_size, k: blocks };
            let flops = 2.0 * (tokens * blocks * config.block_parameters()) as f64;
            bench.job("embed", format!("{name}{suffix}"), shape, Work::Flops(flops), RUNS, || {
                embed(&model, None, &texts, &[layer], Pooling::MeanNoSink, |_| {})?;
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Ids in no order.
fn passage(config: &Config, i: usize, length: usize) -> Vec<u32> {
    (0..length).map(|t| ((i * 104_729 + t * 15_485_863) % config.vocab_size) as u32).collect()
}
