//! SmolLM2-135M-Instruct (dequantised from a Q4_1 file) against transformers. Needs `KIUNGO_SMOLLM2=DIR`, a folder
//! made by `scripts/make-smollm2`.

use crate::support::Golden;
use crate::support::{assert_close, path, smollm2};
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::weights::{Options, load};
use kiungo::llama::config::Config;
use kiungo::llama::encode::Encoder;
use kiungo::llama::model::{Base, Model};
use kiungo::llama::{Layer, Parts};
use std::collections::BTreeMap;

/// The model in f32, or the part of it that is asked for.
pub fn open(folder: &std::path::Path, blocks: Option<usize>) -> Model {
    let config = Config::open(folder).unwrap();
    let parts = Parts { blocks: blocks.unwrap_or(config.layers), final_norm: blocks.is_none(), head: false };
    let checkpoint = Checkpoint::open(folder).unwrap();
    load(
        &checkpoint,
        &config,
        Options { parts, base: Base::F32, compute: DType::F32, device: &Device::Cpu, positions: 64 },
        |_| {},
    )
    .unwrap()
}

#[test]
fn hidden_states_of_all_layers_match_transformers() {
    let Some(folder) = smollm2() else { return };
    let model = open(&folder, None);
    assert!(path("golden/smollm2_hidden.safetensors").exists());
    let golden = Golden::open("smollm2_hidden.safetensors");
    let layers: Vec<Layer> = (0..=model.config.layers).map(Layer::Hidden).chain([Layer::Final]).collect();
    for language in ["sw", "en", "es"] {
        let ids: Vec<u32> = golden.integers(&format!("{language}.ids")).iter().map(|&id| id as u32).collect();
        let mut found: BTreeMap<Layer, Vec<f32>> = BTreeMap::new();
        let mut encoder = Encoder::new(&model, None, ids.len()).unwrap();
        encoder
            .run(&[&ids], &layers, |batch| {
                found.insert(batch.layer, Tensor::to_f32(batch.states)?);
                Ok(())
            })
            .unwrap();
        let hidden = golden.get(&format!("{language}.hidden"));
        let size = ids.len() * model.config.hidden_size;
        for (layer, states) in &found {
            let expected = match layer {
                Layer::Hidden(l) => &hidden[l * size..(l + 1) * size],
                Layer::Final => golden.get(&format!("{language}.final")),
            };
            assert_close(&format!("{language}, layer {layer}"), states, expected, 1e-4);
        }
    }
}
