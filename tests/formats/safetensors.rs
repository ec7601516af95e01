use super::words;
use half::{bf16, f16};
use kiungo::device::{DType, Device};
use kiungo::formats::safetensors::{Checkpoint, CheckpointError, TensorLayout, write_safetensors};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// A safetensors file by the format's own crate.
fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).expect("bytes that fit the shape"))
    });
    safetensors::serialize(views, None).expect("a valid file")
}

fn f32_file(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
    file(&[(name, Dtype::F32, shape, bytemuck::cast_slice(values))])
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let weight_map: BTreeMap<_, _> = entries.iter().copied().collect();
    json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string().into_bytes()
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn values_are_converted_and_rounded() {
    let values = [1.0f32, -0.0, 257.0 / 256.0, 259.0 / 256.0, 3.0e38, 1e-40, -7.5];
    let halves = values.map(|v| f16::from_f32(v.clamp(-60000.0, 60000.0)));
    let brains = values.map(bf16::from_f32);
    let dir = folder(&[(
        "model.safetensors",
        &file(&[
            ("single", Dtype::F32, &[7], bytemuck::cast_slice(&values)),
            ("half", Dtype::F16, &[7, 1], bytemuck::cast_slice(&halves)),
            ("brain", Dtype::BF16, &[7], bytemuck::cast_slice(&brains)),
            ("empty", Dtype::F32, &[0, 3], &[]),
        ]),
    )]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.read_f32("single").unwrap(), values);
    assert_eq!(checkpoint.read_f32("half").unwrap(), halves.map(f16::to_f32));
    assert_eq!(checkpoint.read_f32("brain").unwrap(), brains.map(bf16::to_f32));
    assert!(checkpoint.read_f32("empty").unwrap().is_empty());
    let tensor = checkpoint.read("single", DType::Bf16, &Device::Cpu).unwrap();
    assert_eq!(tensor.as_slice::<bf16>().unwrap(), brains);
    let tensor = checkpoint.read("half", DType::Bf16, &Device::Cpu).unwrap();
    assert_eq!(tensor.shape(), [7, 1]);
    assert_eq!(tensor.as_slice::<bf16>().unwrap(), halves.map(|v| bf16::from_f32(v.to_f32())));
    let brain = checkpoint.tensor("brain").unwrap();
    assert_eq!((brain.dtype, brain.shape.as_slice()), (Dtype::BF16, [7].as_slice()));
}

/// More elements than one task converts, at an odd length.
#[test]
fn long_tensors_are_read_in_order() {
    let n = (1 << 21) + 3;
    let mut values: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let dir = folder(&[("model.safetensors", &f32_file("long", &[n], &values))]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().read_f32("long").unwrap(), values);
    // Of two bad values, the first is named, whichever task finds its own first.
    (values[5], values[n - 1]) = (f32::NAN, f32::INFINITY);
    let dir = folder(&[("model.safetensors", &f32_file("long", &[n], &values))]);
    let error = Checkpoint::open(dir.path()).unwrap().read_f32("long").unwrap_err();
    assert_eq!(words(error, dir.path()), "model.safetensors: long at [5] is NaN as f32; the weights are damaged");
}

#[test]
fn shards_are_found_whether_the_index_names_them_or_not() {
    let first = f32_file("a", &[2], &[1.0, 2.0]);
    let second = file(&[
        ("b", Dtype::F32, &[1], bytemuck::cast_slice(&[3.0f32])),
        ("lm_head.weight", Dtype::F32, &[1], bytemuck::cast_slice(&[4.0f32])),
    ]);
    let named = index(&[("a", "model-00001-of-00002.safetensors"), ("b", "model-00002-of-00002.safetensors")]);
    let files: &[(&str, &[u8])] =
        &[("model-00001-of-00002.safetensors", &first), ("model-00002-of-00002.safetensors", &second), (INDEX, &named)];
    let dir = folder(files);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.contains("lm_head.weight"));
    assert_eq!(checkpoint.read_f32("lm_head.weight").unwrap(), [4.0]);
    assert_eq!(checkpoint.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "lm_head.weight"]);
    let without_index = Checkpoint::open(folder(&files[..2]).path()).unwrap();
    assert_eq!(without_index.identity().unwrap(), checkpoint.identity().unwrap());
}

#[test]
fn identity_tells_weights_apart_but_not_shards() {
    let one = |value: f32| {
        let dir = folder(&[("model.safetensors", &f32_file("a", &[1], &[value]))]);
        Checkpoint::open(dir.path()).unwrap().identity().unwrap()
    };
    assert_eq!(one(1.0), one(1.0));
    assert_ne!(one(1.0), one(2.0));
    assert_eq!(one(1.0).len(), 64);
}

#[test]
fn damaged_folders_are_refused() {
    let good = f32_file("a", &[2], &[1.0, 2.0]);
    let with_nan = f32_file("a", &[2, 3], &[0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0]);
    let integers = file(&[("a", Dtype::I64, &[1], &[0; 8])]);
    let mut long = good.clone();
    long.push(0);
    let header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let bad_offsets = header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#);
    let huge = header(r#"{"a":{"dtype":"F32","shape":[9223372036854775807,8],"data_offsets":[0,4]}}"#);
    let read = |dir: &Path| Checkpoint::open(dir)?.read_f32("a").map(drop);
    type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
    let cases: &[Case] = &[
        (&[], "FOLDER: no *.safetensors file; expected a checkpoint folder in Hugging Face's layout"),
        (
            &[("pytorch_model.bin", b"PK")],
            "FOLDER: no *.safetensors file; pytorch_model.bin is a pickle, which can run code when it is read: load it where you trust it and save it again with transformers' model.save_pretrained(folder)",
        ),
        (
            &[("consolidated.00.pth", b"PK")],
            "FOLDER: no *.safetensors file; consolidated.00.pth is a pickle, which can run code when it is read: load it where you trust it and save it again with transformers' model.save_pretrained(folder)",
        ),
        (
            &[("model.gguf", b"GGUF")],
            "FOLDER: no *.safetensors file; model.gguf is not read: take the original checkpoint in Hugging Face's layout",
        ),
        (
            &[("model.safetensors", b"")],
            "model.safetensors: 0 bytes where its header asks for 8; download or copy it again",
        ),
        (
            &[("model.safetensors", &good[..good.len() - 1])],
            "model.safetensors: 71 bytes where its header asks for 72; download or copy it again",
        ),
        (
            &[("model.safetensors", &good[..30])],
            "model.safetensors: 30 bytes where its header asks for 64; download or copy it again",
        ),
        (
            &[("model.safetensors", &long)],
            "model.safetensors: 73 bytes where its header asks for 72; download or copy it again",
        ),
        (
            &[("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n")],
            "model.safetensors: a Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (&[("model.safetensors", b"<!DOCTYPE html><html></html>")], "model.safetensors: not a safetensors file"),
        (
            &[("model.safetensors", &header("[1]"))],
            "model.safetensors: not a safetensors header: invalid type: sequence, expected struct HashMetadata at line 1 column 0",
        ),
        (
            &[("model.safetensors", &bad_offsets)],
            "model.safetensors: not a safetensors header: invalid shape, data type, or offset for tensor",
        ),
        (
            &[("model.safetensors", &huge)],
            "model.safetensors: not a safetensors header: overflow computing buffer size from shape and/or element type",
        ),
        (
            &[("model.safetensors", &good), ("old.safetensors", &good)],
            "old.safetensors: a is in model.safetensors too; remove the file that does not belong",
        ),
        (
            &[("m.safetensors", &good), (INDEX, &index(&[("a", "m.safetensors"), ("b", "n.safetensors")]))],
            "model.safetensors.index.json: names n.safetensors, which is not in the folder; download or copy it again",
        ),
        (
            &[("m.safetensors", &good), (INDEX, &index(&[("a", "../m.safetensors")]))],
            "model.safetensors.index.json: ../m.safetensors leads out of the checkpoint's folder; put the file itself there",
        ),
        (
            &[("m.safetensors", &good), (INDEX, &index(&[("a", "/etc/passwd")]))],
            "model.safetensors.index.json: /etc/passwd leads out of the checkpoint's folder; put the file itself there",
        ),
        (
            &[("m.safetensors", &good), (INDEX, b"{}")],
            "model.safetensors.index.json: not an index of safetensors files: missing field `weight_map` at line 1 column 2",
        ),
        (&[("model.safetensors", &f32_file("b", &[1], &[0.0]))], "FOLDER: no tensor a (there are 1, such as b)"),
        (&[("model.safetensors", &integers)], "model.safetensors: a is I64, expected F32, F16 or BF16"),
        (&[("model.safetensors", &with_nan)], "model.safetensors: a at [1, 1] is -inf as f32; the weights are damaged"),
    ];
    for (files, message) in cases {
        let dir = folder(files);
        assert_eq!(words(read(dir.path()).unwrap_err(), dir.path()), *message);
    }
}

#[test]
fn shapes_are_checked() {
    let dir = folder(&[("model.safetensors", &f32_file("a", &[2], &[1.0, 2.0]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.expect_shape("a", &[2]).unwrap();
    let error = checkpoint.expect_shape("a", &[2, 1]).unwrap_err();
    assert_eq!(words(error, dir.path()), "model.safetensors: a has shape [2], expected [2, 1]");
    let error = checkpoint.read("a", DType::U8, &Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "weights are read as f32 or bf16, not u8");
}

#[test]
fn a_value_beyond_bf16_is_not_silently_infinite() {
    let dir = folder(&[("model.safetensors", &f32_file("a", &[1], &[f32::MAX]))]);
    let error = Checkpoint::open(dir.path()).unwrap().read("a", DType::Bf16, &Device::Cpu).unwrap_err();
    assert_eq!(words(error, dir.path()), "model.safetensors: a at [0] is inf as bf16; the weights are damaged");
}

#[test]
fn links_lead_nowhere_else_but_to_the_hub_cache() {
    let outside = folder(&[("m.safetensors", &f32_file("a", &[1], &[1.0]))]);
    let dir = tempfile::tempdir().unwrap();
    symlink(outside.path().join("m.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let error = words(Checkpoint::open(dir.path()).unwrap_err(), dir.path());
    let target = outside.path().canonicalize().unwrap().join("m.safetensors");
    let expected = format!("its target {} leads out of the checkpoint's folder", target.display());
    assert_eq!(error, format!("model.safetensors: {expected}; put the file itself there"));

    // models--org--name/{blobs/HASH, snapshots/REVISION/model.safetensors -> ../../blobs/HASH}
    let (blobs, snapshot) = (dir.path().join("hub/blobs"), dir.path().join("hub/snapshots/r1"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::copy(outside.path().join("m.safetensors"), blobs.join("f00d")).unwrap();
    symlink("../../blobs/f00d", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().read_f32("a").unwrap(), [1.0]);
}

fn write(path: &Path, metadata: &BTreeMap<String, String>, short: bool) -> Result<(), CheckpointError> {
    let layout = [
        TensorLayout::new("bytes", DType::U8, &[3]),
        TensorLayout::new("größe", DType::F32, &[2, 1]),
        TensorLayout::new("brain", DType::Bf16, &[1]),
    ];
    write_safetensors(path, &layout, metadata, |tensor| {
        Ok(Cow::Owned(match tensor.name.as_str() {
            "bytes" => vec![7; if short { 2 } else { 3 }],
            "brain" => bf16::from_f32(-2.0).to_le_bytes().to_vec(),
            _ => bytemuck::cast_slice(&[1.5f32, -3.0]).to_vec(),
        }))
    })
}

#[test]
fn what_is_written_is_read_by_the_formats_own_crate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let metadata: BTreeMap<_, _> =
        [("format", "pt"), ("seed", "7"), ("a", "b")].map(|(k, v)| (k.to_string(), v.to_string())).into();
    write(&path, &metadata, false).unwrap();
    let bytes = fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = read.tensor("größe").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, [2, 1].as_slice()));
    assert_eq!(tensor.data(), bytemuck::cast_slice::<f32, u8>(&[1.5, -3.0]));
    assert_eq!(read.tensor("bytes").unwrap().data(), [7, 7, 7]);
    assert_eq!(read.tensor("brain").unwrap().dtype(), Dtype::BF16);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().clone().unwrap().into_iter().collect::<BTreeMap<_, _>>(), metadata);
    assert_eq!(header.offset_keys(), ["größe", "brain", "bytes"]);
    assert_eq!(Checkpoint::open_file(&path).unwrap().read_f32("brain").unwrap(), [-2.0]);

    write(&path, &metadata, false).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same input, the same bytes");
    let error = write(&path, &metadata, true).unwrap_err();
    assert_eq!(words(error, dir.path()), "model.safetensors: bytes was given 2 bytes, expected 3");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a failed write leaves the old file");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
