//! Each op's CUDA face against its CPU face: the kernel sources on the emulator, and on a GPU where there is one.

mod adamw;
mod attention;
mod clip;
mod contrast;
mod convert;
mod cosine;
mod cross_entropy;
mod embedding;
mod gemm;
mod in_batch;
mod launches;
mod linear;
mod lora;
mod nf4;
mod normal;
mod pairs;
mod philox;
mod pooling;
mod residual;
mod rmsnorm;
mod rope;
mod sass;
mod shares;
mod similarity;
mod step;
mod swiglu;

use crate::support::{assert_as_good, assert_close, fast_gpus, gpus, poisoned_on, under_sanitizer, widen};
use kiungo::device::{DType, Device, Tensor};

/// Tokens and hidden sizes of models, for GPUs.
const LARGE: [[usize; 2]; 7] = [[1, 4096], [3, 1536], [127, 576], [129, 4096], [1000, 576], [1000, 1536], [1000, 4096]];

/// Random data, put on a device and rounded to an activation type for each run of an op.
struct Run<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Run<'_> {
    /// Activations.
    fn tensor(&self, data: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_f32(self.device, self.dtype, data.to_vec(), shape).unwrap()
    }

    /// What is f32 whatever the activations are.
    fn f32(&self, data: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(self.device, data, shape).unwrap()
    }

    /// An output of activations, all NaN.
    fn poisoned(&self, shape: &[usize]) -> Tensor {
        self.poisoned_as(self.dtype, shape)
    }

    /// An output of another type, all ones in its bits.
    fn poisoned_as(&self, dtype: DType, shape: &[usize]) -> Tensor {
        poisoned_on(self.device, dtype, shape)
    }
}

/// Runs an op on every GPU and on the CPU, with f32 and with bf16 activations, and compares what it returns.
///
/// f32 may differ by `bound`. In bf16 the kernel may have twice the error of the CPU's bf16, both measured against the
/// CPU's f32: give data that bf16 holds exactly. A second run must give the same bytes.
#[track_caller]
fn compare(what: &str, bound: f64, op: impl Fn(&Run) -> Vec<Tensor>) {
    compare_on(&gpus(), what, bound, op);
}

/// The same with bf16 activations alone, of kernels that take no others.
#[track_caller]
fn compare_bf16(what: &str, bound: f64, op: impl Fn(&Run) -> Vec<Tensor>) {
    compare_as(&[DType::Bf16], &gpus(), what, bound, op);
}

/// The same for shapes that only a GPU can run in a test's time: not the emulator, and not a GPU under a sanitizer.
/// `case` makes the data, which is not made in vain.
#[track_caller]
fn compare_large<Op: Fn(&Run) -> Vec<Tensor>>(what: &str, bound: f64, case: impl FnOnce() -> Op) {
    let gpus = fast_gpus();
    if !gpus.is_empty() {
        compare_on(&gpus, what, bound, case());
    }
}

#[track_caller]
fn compare_on(gpus: &[Device], what: &str, bound: f64, op: impl Fn(&Run) -> Vec<Tensor>) {
    compare_as(&[DType::F32, DType::Bf16], gpus, what, bound, op);
}

#[track_caller]
fn compare_as(dtypes: &[DType], gpus: &[Device], what: &str, bound: f64, op: impl Fn(&Run) -> Vec<Tensor>) {
    let values = |device: &Device, dtype| -> Vec<Vec<f32>> {
        op(&Run { device, dtype }).iter().map(|t| t.to_f32().unwrap()).collect()
    };
    let (exact, textbook) = (values(&Device::Cpu, DType::F32), values(&Device::Cpu, DType::Bf16));
    for gpu in gpus {
        for &dtype in dtypes {
            let found = values(gpu, dtype);
            let again = if under_sanitizer() { found.clone() } else { values(gpu, dtype) };
            for (i, found) in found.iter().enumerate() {
                let what = format!("{what}, {dtype}, output {i} on {gpu}");
                assert!(bits(found) == bits(&again[i]), "{what}: a second run gave other bytes");
                match dtype {
                    DType::F32 => assert_close(&what, found, &exact[i], bound),
                    _ => assert_as_good(&what, found, &textbook[i], &widen(&exact[i]), bound),
                }
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}
