//! The tensors of `tests/golden/`, widened to f64. `tests/golden/README.md` says what each one is.

use super::{path, tensor};
use half::bf16;
use kiungo::device::Tensor;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

/// One golden file.
pub struct Golden(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Golden {
    /// Reads `tests/golden/<file>`.
    pub fn open(file: &str) -> Golden {
        let bytes = std::fs::read(path("golden").join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (String, safetensors::tensor::TensorView)| {
            (name, (view.shape().to_vec(), to_f64(view.dtype(), view.data())))
        };
        Golden(tensors.tensors().into_iter().map(read).collect())
    }

    /// The tensor's values.
    #[track_caller]
    pub fn get(&self, name: &str) -> &[f64] {
        &self.entry(name).1
    }

    /// The tensor's shape.
    #[track_caller]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.entry(name).0
    }

    /// The values of a tensor that f32 holds exactly.
    #[track_caller]
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.get(name).iter().map(|&v| v as f32).collect()
    }

    /// Token ids, lengths and masks.
    #[track_caller]
    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.get(name).iter().map(|&v| v as i64).collect()
    }

    /// The tensor on the CPU, as f32.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> Tensor {
        tensor(&self.f32(name), self.shape(name))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn entry(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.0.get(name).unwrap_or_else(|| panic!("no golden tensor {name}"))
    }
}

fn to_f64(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks().0.iter().map(|&b| value(b)).collect()
    }
    match dtype {
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        Dtype::F32 => each(bytes, |b| f32::from_le_bytes(b).into()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        Dtype::U8 => each(bytes, |[b]| b.into()),
        other => panic!("golden tensor of {other:?}"),
    }
}
