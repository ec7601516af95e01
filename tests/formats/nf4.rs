use super::words;
use crate::support;
use half::bf16;
use kiungo::device::{DType, Device, Tensor};
use kiungo::formats::nf4;
use kiungo::formats::safetensors::{Checkpoint, CheckpointError};
use kiungo::llama::config::{Config, Projection};
use kiungo::ops::nf4::{LEVELS, dequantize};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

/// Files that transformers and bitsandbytes wrote: plain scales, double quantisation, codes stored as bf16.
#[test]
fn what_bitsandbytes_saved_dequantises_to_its_bits() {
    for kind in ["plain", "double", "bf16"] {
        let folder = support::path("golden/nf4").join(kind);
        let config = Config::open(&folder).unwrap();
        assert_eq!(config.quantization.unwrap().double, kind != "plain");
        let checkpoint = Checkpoint::open(&folder).unwrap();
        for (layer, projection) in
            [("model.layers.0.self_attn.q_proj", Projection::Q), ("model.layers.3.mlp.down_proj", Projection::Down)]
        {
            let (name, shape) = (format!("{layer}.weight"), config.shape(projection));
            assert_eq!(nf4::shape(&checkpoint, &name).unwrap(), shape);
            assert!(nf4::is_quantised(&checkpoint, &name));
            let weight = nf4::read(&checkpoint, &name, shape, &Device::Cpu).unwrap();
            let mut found = Tensor::zeros(&Device::Cpu, DType::Bf16, &shape).unwrap();
            dequantize(&weight, &mut found).unwrap();
            let expected = checkpoint.read(&format!("{layer}.dequantized"), DType::Bf16, &Device::Cpu).unwrap();
            let bits = |t: &Tensor| t.as_slice::<bf16>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert!(bits(&found) == bits(&expected), "{kind}: {layer}");
        }
    }
}

/// The parts of a weight of shape [2, 64], by the end of their names.
struct Parts(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Parts {
    fn new(double: bool) -> Parts {
        let mut parts = Parts(BTreeMap::new());
        let mut state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]});
        parts.set("", Dtype::U8, &[64, 1], &[0x7F; 64]);
        parts.floats(".quant_map", &LEVELS);
        if double {
            parts.set(".absmax", Dtype::U8, &[2], &[255, 0]);
            parts.floats(".nested_absmax", &[0.5]);
            parts.floats(".nested_quant_map", &[0.25; 256]);
            state["nested_blocksize"] = json!(256);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(1.0);
        } else {
            parts.floats(".absmax", &[2.0, 3.0]);
        }
        parts.state("nf4", &state);
        parts
    }

    fn set(&mut self, part: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        self.0.insert(format!("{WEIGHT}{part}"), (dtype, shape.to_vec(), bytes.to_vec()));
    }

    fn floats(&mut self, part: &str, values: &[f32]) {
        self.set(part, Dtype::F32, &[values.len()], bytemuck::cast_slice(values));
    }

    fn state(&mut self, kind: &str, state: &Value) {
        let text = state.to_string();
        self.set(&format!(".quant_state.bitsandbytes__{kind}"), Dtype::U8, &[text.len()], text.as_bytes());
    }

    fn change_state(&mut self, key: &str, value: Value) {
        let name = format!("{WEIGHT}.quant_state.bitsandbytes__nf4");
        let mut state: Value = serde_json::from_slice(&self.0[&name].2).unwrap();
        match value {
            Value::Null => drop(state.as_object_mut().unwrap().remove(key)),
            value => state[key] = value,
        }
        self.state("nf4", &state);
    }

    fn remove(&mut self, part: &str) {
        self.0.remove(&format!("{WEIGHT}{part}"));
    }

    fn read(&self) -> Result<Vec<f32>, String> {
        self.open(|checkpoint| Ok(nf4::read(checkpoint, WEIGHT, [2, 64], &Device::Cpu)?.to_f32().unwrap()))
    }

    /// Calls `f` with a checkpoint of these parts; errors are in words, without the folder's name.
    fn open<T>(&self, f: impl Fn(&Checkpoint) -> Result<T, CheckpointError>) -> Result<T, String> {
        let folder = tempfile::tempdir().unwrap();
        let view = |(dtype, shape, bytes)| TensorView::new(dtype, shape, bytes).unwrap();
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| (name, view((*dtype, shape.clone(), bytes))));
        fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        f(&checkpoint).map_err(|e| words(e, folder.path()))
    }
}

#[test]
fn the_first_code_of_a_byte_is_in_its_high_half() {
    let plain = Parts::new(false).read().unwrap();
    assert_eq!((plain[0], plain[1], plain[127]), (0.0, 2.0, 3.0));
    let double = Parts::new(true).read().unwrap();
    assert_eq!((double[0], double[1], double[127]), (0.0, 1.125, 1.125));
}

#[test]
fn a_shape_must_fit_the_codes() {
    let mut parts = Parts::new(false);
    assert_eq!(parts.open(|c| nf4::shape(c, WEIGHT)), Ok([2, 64]));
    for shape in [json!([128]), json!([2, 65]), json!([2, 1u64 << 63]), json!([2, 32, 2])] {
        parts.change_state("shape", shape.clone());
        let refused = parts.open(|c| nf4::shape(c, WEIGHT)).unwrap_err();
        let shape = shape.to_string().replace(',', ", ");
        let expected =
            format!("model.safetensors: {WEIGHT}: shape {shape} is not that of a matrix in 64 bytes of codes");
        assert_eq!(refused, expected);
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let prefix = format!("model.safetensors: {WEIGHT}");
    type Change = fn(&mut Parts);
    let hint = "only NF4 is read: quantise with bnb_4bit_quant_type=\"nf4\"";
    let cases: &[(bool, Change, String)] = &[
        (false, |p| p.remove(""), format!("FOLDER: no tensor {WEIGHT} (there are 3, such as {WEIGHT}.absmax)")),
        (
            false,
            |p| p.remove(".quant_state.bitsandbytes__nf4"),
            format!("{prefix}: without a quantisation state; {hint}"),
        ),
        (
            false,
            |p| {
                p.remove(".quant_state.bitsandbytes__nf4");
                p.state("fp4", &json!({}))
            },
            format!("{prefix}: FP4; {hint}"),
        ),
        (
            false,
            |p| p.change_state("quant_type", json!("fp4")),
            format!("{prefix}: quant_type is \"fp4\", expected nf4"),
        ),
        (
            false,
            |p| p.change_state("blocksize", json!(128)),
            format!("{prefix}: blocksize is 128, the kernels need 64: quantise again with blocksize 64"),
        ),
        (
            true,
            |p| p.change_state("nested_blocksize", json!(128)),
            format!(
                "{prefix}: nested_blocksize is 128, the kernels need 256: quantise again with nested_blocksize 256"
            ),
        ),
        (
            true,
            |p| p.change_state("nested_offset", Value::Null),
            format!("{prefix}: nested_blocksize and nested_offset must come together"),
        ),
        (
            true,
            |p| p.change_state("nested_offset", json!(1e300)),
            format!("{prefix}: quantisation state: number out of range at line 1 column 139"),
        ),
        (false, |p| p.change_state("shape", json!([64, 2])), format!("{prefix} has shape [64, 2], expected [2, 64]")),
        (
            false,
            |p| p.change_state("shape", json!("x")),
            format!(
                "{prefix}: quantisation state: invalid type: string \"x\", expected a sequence at line 1 column 65"
            ),
        ),
        (false, |p| p.set("", Dtype::BF16, &[31, 1], &[0; 62]), format!("{prefix}: 62 bytes of codes, expected 64")),
        (false, |p| p.floats(".absmax", &[1.0]), format!("{prefix}.absmax has shape [1], expected [2]")),
        (
            false,
            |p| p.floats(".absmax", &[1.0, f32::NAN]),
            format!("{prefix}.absmax at [1] is NaN as f32; the weights are damaged"),
        ),
        (false, |p| p.floats(".quant_map", &[0.5; 16]), format!("{prefix}: quant_map[0] is 0.5, NF4 has -1")),
        (true, |p| p.set(".absmax", Dtype::U8, &[3], &[0; 3]), format!("{prefix}: 3 bytes of absmax, expected 2")),
        (
            true,
            |p| p.remove(".nested_quant_map"),
            format!("FOLDER: no tensor {WEIGHT}.nested_quant_map (there are 5, such as {WEIGHT})"),
        ),
    ];
    for (double, change, message) in cases {
        let mut parts = Parts::new(*double);
        change(&mut parts);
        assert_eq!(parts.read().unwrap_err(), *message);
    }
}
