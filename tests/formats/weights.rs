//! Models from files and from thin air: the same on every device, and never more than is needed.

use super::words;
use crate::support::{gpus, is_emulator};
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::nf4;
use kiungo::formats::random::{self, write};
use kiungo::formats::safetensors::{Checkpoint, TensorLayout, write_safetensors};
use kiungo::formats::weights::{Options, Transfer, load, load_with};
use kiungo::llama::Parts;
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Model, names};
use kiungo::llama::random::model;
use kiungo::ops::convert::Stored;
use kiungo::ops::linear::Weight;
use kiungo::ops::nf4::Scales;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 37, "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;
const BASES: [Base; 4] = [Base::F32, Base::Bf16, Base::Nf4, Base::Nf4Double];
const WHOLE: Parts = Parts { blocks: 2, final_norm: true, head: true };
/// Pieces so small that every weight takes several, and threads that fight for them.
const SMALL: Transfer = Transfer { threads: 3, buffers: 2, bytes: 1024 };

fn config() -> Config {
    Config::parse(Path::new("config.json"), CONFIG).unwrap()
}

fn options(device: &Device, base: Base, parts: Parts) -> Options<'_> {
    Options { parts, base, compute: DType::F32, device, positions: 8 }
}

/// A checkpoint in several files.
fn written(folder: &Path, stored: Stored, device: &Device) -> Checkpoint {
    let options = random::Options { seed: 7, stored, shard_bytes: 40_000, device };
    write(folder, &config(), options, |_| {}).unwrap();
    assert!(fs::read_dir(folder).unwrap().count() > 4, "one shard");
    Checkpoint::open(folder).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    match tensor.dtype() {
        DType::U8 => tensor.to_vec::<u8>().unwrap().into_iter().map(u32::from).collect(),
        _ => tensor.to_f32().unwrap().into_iter().map(f32::to_bits).collect(),
    }
}

/// All that a model holds.
fn contents(model: &Model) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::from([(names::EMBEDDING.to_string(), bits(&model.embedding))]);
    all.extend(model.final_norm.iter().map(|t| (names::FINAL_NORM.to_string(), bits(t))));
    all.extend(model.head.iter().map(|t| (names::HEAD.to_string(), bits(t))));
    for (i, block) in model.blocks.iter().enumerate() {
        all.insert(names::input_norm(i), bits(&block.input_norm));
        all.insert(names::post_norm(i), bits(&block.post_norm));
        for (projection, weight) in block.linear.iter() {
            let parts = match weight {
                Weight::Dense(t) => vec![t],
                Weight::Nf4(w) => match &w.scales {
                    Scales::Plain { absmax } => vec![&w.codes, absmax],
                    Scales::Double { codes, nested, map, offset } => vec![&w.codes, codes, nested, map, offset],
                },
            };
            all.insert(names::linear(i, projection), parts.into_iter().flat_map(bits).collect());
        }
    }
    all
}

#[track_caller]
fn assert_same(what: &str, found: &Model, expected: &Model) {
    let (found, expected) = (contents(found), contents(expected));
    assert!(found.keys().eq(expected.keys()), "{what}: other tensors");
    for (name, values) in &expected {
        let first = found[name].iter().zip(values).position(|(a, b)| a != b);
        assert!(found[name].len() == values.len() && first.is_none(), "{what}: {name} differs, at {first:?} first");
    }
}

#[test]
fn a_gpu_reads_what_the_cpu_reads() {
    for stored in [Stored::F32, Stored::F16, Stored::Bf16] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = written(&folder.path().join("model"), stored, &Device::Cpu);
        for base in BASES {
            let expected = load(&checkpoint, &config(), options(&Device::Cpu, base, WHOLE), |_| {}).unwrap();
            for device in gpus() {
                let one = Transfer { threads: 1, buffers: 1, bytes: 1 << 20 };
                let both = stored == Stored::Bf16 || !is_emulator(&device);
                for transfer in if both { vec![SMALL, one] } else { vec![SMALL] } {
                    let what = format!("{stored} as {base} by {transfer:?} on {device}");
                    let found = load_with(&checkpoint, &config(), options(&device, base, WHOLE), transfer, |_| {});
                    assert_same(&what, &found.unwrap_or_else(|e| panic!("{what}: {e}")), &expected);
                }
            }
        }
    }
}

#[test]
fn what_is_drawn_is_what_is_written() {
    for device in std::iter::once(Device::Cpu).chain(gpus()) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = written(&folder.path().join("model"), Stored::Bf16, &device);
        assert_eq!(Config::open(&folder.path().join("model")).unwrap().dtype.as_deref(), Some("bfloat16"));
        for base in BASES {
            let options = options(&device, base, WHOLE);
            let read = load(&checkpoint, &config(), options, |_| {}).unwrap();
            assert_same(&format!("{base} on {device}"), &model(&config(), options, 7).unwrap(), &read);
        }
    }
}

/// Codes that bitsandbytes made come as they are.
#[test]
fn a_gpu_reads_a_quantised_folder_as_the_cpu_does() {
    for (double, base) in [(false, Base::Nf4), (true, Base::Nf4Double)] {
        let folder = tempfile::tempdir().unwrap();
        let dense = written(&folder.path().join("dense"), Stored::Bf16, &Device::Cpu);
        let whole = load(&dense, &config(), options(&Device::Cpu, base, WHOLE), |_| {}).unwrap();
        nf4::write_model(&folder.path().join("nf4"), &whole, &dense, double).unwrap();
        let checkpoint = Checkpoint::open(&folder.path().join("nf4")).unwrap();
        for device in std::iter::once(Device::Cpu).chain(gpus()) {
            let found = load_with(&checkpoint, &config(), options(&device, base, WHOLE), SMALL, |_| {}).unwrap();
            assert_same(&format!("{base} on {device}"), &found, &whole);
        }
    }
}

#[test]
fn a_part_is_that_of_the_whole() {
    let bottom = Parts { blocks: 1, final_norm: true, head: false };
    let whole = model(&config(), options(&Device::Cpu, Base::Nf4, WHOLE), 7).unwrap();
    let part = model(&config(), options(&Device::Cpu, Base::Nf4, bottom), 7).unwrap();
    let mut expected = contents(&whole);
    expected.retain(|name, _| bottom.need(name));
    assert!(contents(&part) == expected);
    let other = model(&config(), options(&Device::Cpu, Base::Nf4, bottom), 8).unwrap();
    assert!(bits(&other.embedding) != bits(&part.embedding), "the seed changes nothing");
}

/// Cuts a file, on all devices, after its header was read.
#[test]
fn a_file_that_shrinks_is_an_error_where_it_is_needed() {
    for device in std::iter::once(Device::Cpu).chain(gpus()) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("model");
        let checkpoint = written(&folder, Stored::Bf16, &device);
        let last = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
        let last = last.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).max().unwrap();
        let length = fs::metadata(&last).unwrap().len();
        File::options().write(true).open(&last).unwrap().set_len(length - 10).unwrap();
        // The last file holds the head, and no part of the first block.
        let bottom = Parts { blocks: 1, final_norm: false, head: false };
        load_with(&checkpoint, &config(), options(&device, Base::Nf4, bottom), SMALL, |_| {}).unwrap();
        let error = load_with(&checkpoint, &config(), options(&device, Base::Nf4, WHOLE), SMALL, |_| {}).err().unwrap();
        let name = last.file_name().unwrap().to_string_lossy().into_owned();
        let (found, expected) = (length - 10, length);
        assert_eq!(
            words(error, &folder),
            format!("{name}: {found} bytes where its header asks for {expected}; download or copy it again"),
            "on {device}"
        );
    }
}

#[test]
fn what_is_not_finite_is_named() {
    let config = config();
    for (stored, base, value) in [
        (DType::F32, Base::Nf4, f32::NAN),
        (DType::Bf16, Base::Nf4Double, f32::INFINITY),
        (DType::F32, Base::F32, f32::NEG_INFINITY),
        // Finite until it is rounded.
        (DType::F32, Base::Bf16, f32::MAX),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let all = names::all(&config);
        let layout: Vec<_> = all.iter().map(|(name, shape)| TensorLayout::new(name, stored, shape)).collect();
        let damaged = "model.layers.1.mlp.up_proj.weight";
        write_safetensors(&path, &layout, &BTreeMap::new(), |tensor| {
            let mut values = vec![0.5f32; tensor.shape.iter().product()];
            if tensor.name == damaged {
                (values[64 * 135 + 63], values[64 * 100 + 5]) = (value, value);
            }
            let tensor = Tensor::from_f32(&Device::Cpu, stored, values, &tensor.shape).unwrap();
            Ok::<_, kiungo::formats::safetensors::CheckpointError>(Cow::Owned(match stored {
                DType::F32 => bytemuck::cast_slice(&tensor.to_vec::<f32>().unwrap()).to_vec(),
                _ => bytemuck::cast_slice(&tensor.to_vec::<half::bf16>().unwrap()).to_vec(),
            }))
        })
        .unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let error = |device: &Device| {
            let loaded = load_with(&checkpoint, &config, options(device, base, WHOLE), SMALL, |_| {});
            words(loaded.err().unwrap(), folder.path())
        };
        let expected = error(&Device::Cpu);
        assert!(expected.starts_with(&format!("model.safetensors: {damaged} at [100, 5] is ")), "{expected}");
        for device in gpus() {
            assert_eq!(error(&device), expected, "on {device}");
        }
    }
}
