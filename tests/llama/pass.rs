//! A whole model's forward and backward pass, with every state kept, for comparison with golden data.

use crate::support::Golden;
use crate::support::path;
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::weights::{Options, load};
use kiungo::llama::Parts;
use kiungo::llama::activations::{Activations, Scratch};
use kiungo::llama::adapters::Adapters;
use kiungo::llama::config::{Config, Projection};
use kiungo::llama::forward::Context;
use kiungo::llama::model::{Base, Model};
use kiungo::ops::rmsnorm;
use kiungo::ops::sequences::Sequences;

/// Rows of a padded golden tensor, `[sequences, longest, ...]`, that are not padding.
pub fn packed(golden: &Golden, name: &str, lengths: &[usize]) -> Vec<f64> {
    let shape = golden.shape(name);
    let row: usize = shape[2..].iter().product();
    let sequences = golden.get(name).chunks(shape[1] * row).zip(lengths);
    sequences.flat_map(|(s, &length)| s[..length * row].to_vec()).collect()
}

/// Token ids of a padded golden tensor, a list a sequence.
pub fn texts(golden: &Golden, name: &str, lengths: &[usize]) -> Vec<Vec<u32>> {
    let rows = golden.get(name).chunks(golden.shape(name)[1]).zip(lengths);
    rows.map(|(row, &length)| row[..length].iter().map(|&id| id as u32).collect()).collect()
}

/// Lengths by an attention mask, `[sequences, longest]`.
pub fn lengths(golden: &Golden, mask: &str) -> Vec<usize> {
    let rows = golden.get(mask).chunks(golden.shape(mask)[1]);
    rows.map(|row| row.iter().filter(|&&m| m == 1.0).count()).collect()
}

/// Opens a model folder under `tests/golden`.
pub fn open(folder: &str, base: Base) -> Model {
    let folder = path("golden").join(folder);
    let config = Config::open(&folder).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let parts = Parts { blocks: config.layers, final_norm: true, head: true };
    load(
        &checkpoint,
        &config,
        Options { parts, base, compute: DType::F32, device: &Device::Cpu, positions: config.max_positions.min(256) },
        |_| {},
    )
    .unwrap()
}

/// A forward pass with all its states.
pub struct Pass {
    pub sequences: Sequences,
    pub ids: Tensor,
    /// `states[l]` is hidden(l).
    pub states: Vec<Tensor>,
    pub kept: Vec<Activations>,
    pub normed: Tensor,
    pub inv_rms: Tensor,
}

pub fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::Cpu, DType::F32, shape).unwrap()
}

impl Pass {
    pub fn forward(model: &Model, adapters: Option<&Adapters>, texts: &[Vec<u32>]) -> Pass {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let ids = texts.concat();
        let tokens = ids.len();
        let (cpu, config) = (&Device::Cpu, &model.config);
        let sequences = Sequences::new(cpu, &lengths).unwrap();
        let rank = adapters.map_or(0, |a| a.rank);
        let mut states: Vec<Tensor> = (0..=model.blocks.len()).map(|_| zeros(&[tokens, config.hidden_size])).collect();
        let kept = || Activations::new(config, cpu, DType::F32, tokens, rank).unwrap();
        let mut kept: Vec<Activations> = (0..model.blocks.len()).map(|_| kept()).collect();
        let ids = Tensor::from_vec(cpu, ids, &[tokens]).unwrap();
        kiungo::ops::embedding::forward(&model.embedding, &ids, &mut states[0]).unwrap();
        let context = Context { config, rope: &model.rope, sequences: &sequences };
        for (i, block) in model.blocks.iter().enumerate() {
            let adapters = adapters.and_then(|a| a.of_block(i, None));
            let [input, output] = &mut states[i..i + 2] else { unreachable!() };
            block.forward(context, adapters, input, &mut kept[i], output).unwrap();
        }
        let (mut normed, mut inv_rms) = (zeros(&[tokens, config.hidden_size]), zeros(&[tokens]));
        if let Some(norm) = &model.final_norm {
            let top = states.last().unwrap();
            rmsnorm::forward(top, norm, config.rms_norm_eps, &mut normed, &mut inv_rms).unwrap();
        }
        Pass { sequences, ids, states, kept, normed, inv_rms }
    }

    pub fn tokens(&self) -> usize {
        self.sequences.tokens()
    }

    pub fn scratch(&self, model: &Model, rank: usize) -> Scratch {
        Scratch::new(&model.config, &Device::Cpu, DType::F32, self.tokens(), rank).unwrap()
    }
}

/// Linear layers by their checkpoint names.
pub fn linear_name(block: usize, projection: Projection) -> String {
    kiungo::llama::model::names::linear(block, projection)
}
