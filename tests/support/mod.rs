//! What tests share: random data, errors relative to float64, golden files.
#![allow(dead_code)]

mod allocations;
mod counting;
mod faults;
mod golden;
mod gpu;
pub mod hub;
mod paper;

pub use allocations::{Bounded, held, largest};
pub use counting::{Calls, Counting};
pub use faults::{faults, temporaries};
pub use golden::Golden;
pub use gpu::{assert_as_good, executors, fast_gpus, gpus, is_emulator, under_sanitizer};
use half::bf16;
use kiungo::device::{DType, Device, Tensor};
pub use paper::Paper;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use std::path::PathBuf;

/// A file or folder under `tests/`, wherever the binary runs: `KIUNGO_TESTS` names the folder on a machine without the
/// source tree.
pub fn path(relative: &str) -> PathBuf {
    let root = std::env::var_os("KIUNGO_TESTS").map(PathBuf::from);
    root.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")).join(relative)
}

/// The folder of SmolLM2-135M-Instruct (dequantised from a Q4_1 file), or None with a word about it: tests on it are not part
/// of the default run.
pub fn smollm2() -> Option<PathBuf> {
    let folder = std::env::var_os("KIUNGO_SMOLLM2").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: KIUNGO_SMOLLM2 names no model folder (scripts/make-smollm2 makes one)");
    }
    folder
}

/// A generator that gives the same values in every run.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Standard normal values.
pub fn normal(rng: &mut StdRng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.sample::<f32, _>(StandardNormal)).collect()
}

/// Those values as a tensor on the CPU.
pub fn tensor(data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, data, shape).unwrap()
}

/// An f32 tensor on the CPU that is all NaN, for outputs: an element that is not written, or is read, shows.
pub fn poisoned(shape: &[usize]) -> Tensor {
    poisoned_as(DType::F32, shape)
}

/// The same in f32 or bf16, rounded.
pub fn tensor_as(dtype: DType, data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_f32(&Device::Cpu, dtype, data.to_vec(), shape).unwrap()
}

/// The same as [`poisoned`] for any float type.
pub fn poisoned_as(dtype: DType, shape: &[usize]) -> Tensor {
    poisoned_on(&Device::Cpu, dtype, shape)
}

/// The same on any device, of any type: all bits are ones.
///
/// With `KIUNGO_POISON=off` the memory is left as it was allocated, so that compute-sanitizer's initcheck, for which
/// poison is a value like any other, sees elements that are read and were never written.
pub fn poisoned_on(device: &Device, dtype: DType, shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::uninitialized(device, dtype, shape).unwrap();
    if std::env::var("KIUNGO_POISON").as_deref() != Ok("off") {
        tensor.fill_byte(0xFF).unwrap();
    }
    tensor
}

/// Widened exactly.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| v.into()).collect()
}

/// `‖a - b‖ / ‖b‖` in float64; infinite where a value is not finite, so that poison never passes.
pub fn relative_error<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b): (f64, f64) = (a.into(), b.into());
        if !a.is_finite() {
            return f64::INFINITY;
        }
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// Fails unless the relative error is at most `bound`.
#[track_caller]
pub fn assert_close<A: Copy + Into<f64>, B: Copy + Into<f64>>(what: &str, found: &[A], expected: &[B], bound: f64) {
    let error = relative_error(found, expected);
    assert!(error <= bound, "{what}: relative error {error:.3e}, allowed {bound:.1e}");
}

/// A gradient against central differences of a float64 function, at every element.
#[track_caller]
pub fn assert_gradient(what: &str, x: &[f64], gradient: &[f32], bound: f64, f: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    let numeric: Vec<f64> = (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect();
    assert_close(what, gradient, &numeric, bound);
}

/// Standard normal values that bf16 holds exactly.
pub fn normal_bf16(rng: &mut StdRng, n: usize) -> Vec<f32> {
    normal(rng, n).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// A bf16 result against float64: the error may be twice that of the exact result rounded once, which is the least
/// that any bf16 computation can have.
#[track_caller]
pub fn assert_bf16(what: &str, found: &Tensor, exact: &[f64]) {
    assert_eq!(found.dtype(), DType::Bf16, "{what}");
    let rounded: Vec<f64> = exact.iter().map(|&x| bf16::from_f64(x).to_f64()).collect();
    assert_close(what, &found.to_f32().unwrap(), exact, 2.0 * relative_error(&rounded, exact));
}

/// Runs `f` with one, two and three threads; its results must be the same to the bit.
#[track_caller]
pub fn assert_same_for_any_threads(what: &str, f: impl Fn() -> Vec<f32> + Sync) {
    let bits = |threads: usize| -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&f).into_iter().map(f32::to_bits).collect()
    };
    let one = bits(1);
    for threads in [2, 3] {
        assert!(one == bits(threads), "{what}: {threads} threads give other bytes than one");
    }
}
