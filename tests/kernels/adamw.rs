use super::{LARGE, compare, compare_large};
use crate::support::{assert_close, fast_gpus, gpus, normal, poisoned_on, rng};
use kiungo::device::{DType, Device, Staging, Tensor};
use kiungo::ops::adamw::{self, AdamW, Moments, Precision, Rounding};
use kiungo::ops::step::{self, Metrics, State, Status};

#[test]
fn steps_are_those_of_the_cpu_to_the_bit() {
    let case = |shape: [usize; 2]| {
        let mut rng = rng(1);
        let [w, g, m, v] = [0; 4].map(|_| normal(&mut rng, shape[0] * shape[1]));
        let v: Vec<f32> = v.into_iter().map(f32::abs).collect();
        move |run: &super::Run| {
            let [mut w, mut m, mut v] = [&w, &m, &v].map(|data| run.f32(data, &shape));
            let (g, mut copy) = (run.f32(&g, &shape), run.poisoned(&shape));
            let adamw = AdamW::default();
            adamw::step(&adamw, 3, &mut w, &g, &mut m, &mut v, Some(&mut copy)).unwrap();
            adamw::step(&adamw, 4, &mut w, &g, &mut m, &mut v, None).unwrap();
            vec![w, m, v, copy]
        }
    };
    for shape in [[1, 1], [3, 7], [5, 576]] {
        compare(&format!("adamw {shape:?}"), 0.0, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("adamw {shape:?}"), 0.0, || case(shape));
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Blocks8];
const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// Weights, then the moments' tensors, then the copy, after some steps, widened to f32.
fn after_steps(device: &Device, n: usize, [w_type, g_type]: [DType; 2], precision: Precision) -> Vec<Vec<f32>> {
    let mut rng = rng(n as u64);
    let mut w = Tensor::from_f32(device, w_type, normal(&mut rng, n), &[n]).unwrap();
    let mut moments = Moments::new(device, precision, &[n]).unwrap();
    let mut copy = (w_type == DType::F32).then(|| poisoned_on(device, DType::Bf16, &[n]));
    for t in 1..4 {
        // Gradients of many magnitudes, so that all of a map is used, and a block of zeros.
        let g = normal(&mut rng, n).into_iter().enumerate();
        let g = g.map(|(i, g)| if (256..700).contains(&i) { 0.0 } else { g * 10f32.powi(-((i % 9) as i32)) }).collect();
        let g = Tensor::from_f32(device, g_type, g, &[n]).unwrap();
        let rounding = Rounding { seed: 7, stream: 3 };
        adamw::update(&AdamW::default(), t, rounding, &mut w, &g, &mut moments, copy.as_mut()).unwrap();
    }
    let widened = |t: &Tensor| match t.dtype() {
        DType::U8 => t.to_vec::<u8>().unwrap().into_iter().map(f32::from).collect(),
        _ => t.to_f32().unwrap(),
    };
    [&w].into_iter().chain(moments.tensors()).chain(copy.iter()).map(widened).collect()
}

/// All is equal but the weights of 8-bit moments, which may differ by some units in the last place, and so in
/// bf16 once in a long while by one.
fn check_update(gpu: &Device, n: usize) {
    for w_type in FLOATS {
        for g_type in FLOATS {
            for precision in PRECISIONS {
                let what = format!("{n} weights of {w_type}, gradient of {g_type}, moments {precision:?} on {gpu}");
                let types = [w_type, g_type];
                let (expected, found) =
                    (after_steps(&Device::Cpu, n, types, precision), after_steps(gpu, n, types, precision));
                assert_eq!(after_steps(gpu, n, types, precision), found, "{what}: a second run");
                let outputs = expected.len();
                for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    let is_weight = i == 0 || (w_type == DType::F32 && i == outputs - 1);
                    if precision != Precision::Blocks8 || !is_weight {
                        let first = expected.iter().zip(found).position(|(e, f)| e.to_bits() != f.to_bits());
                        let pair = first.map(|at| (at, expected[at], found[at]));
                        assert!(first.is_none(), "{what}, output {i}: first at {pair:?}");
                        continue;
                    }
                    let bound = if i == 0 && w_type == DType::F32 { 1e-6 } else { 1e-3 };
                    assert_close(&format!("{what}, output {i}"), found, expected, bound);
                }
            }
        }
    }
}

#[test]
fn updates_of_every_precision_are_those_of_the_cpu() {
    for gpu in gpus() {
        for n in [1, 257, 1000] {
            check_update(&gpu, n);
        }
    }
    for gpu in fast_gpus() {
        for n in [4096, 576 * 1536, (1 << 22) + 5] {
            check_update(&gpu, n);
        }
    }
}

#[test]
fn a_failed_step_changes_nothing_and_a_clipped_one_less() {
    for gpu in gpus().into_iter().chain([Device::Cpu]) {
        for precision in PRECISIONS {
            let n = 300;
            let (mut state, mut status) = (State::new(&gpu).unwrap(), Status::new(&gpu).unwrap());
            let (mut staging, mut metrics) =
                (Staging::new(&gpu, 2, State::BYTES).unwrap(), Metrics::new(&gpu, 4).unwrap());
            let adamw = AdamW::default();
            let w0 = Tensor::from_f32(&gpu, DType::Bf16, vec![1.0; n], &[n]).unwrap();
            let g = Tensor::from_slice(&gpu, &vec![1.0f32; n], &[n]).unwrap();
            let squares = Tensor::from_slice(&gpu, &[n as f32], &[1]).unwrap();
            let mut after = |loss: f32, serial: u32| {
                let mut w = Tensor::from_f32(&gpu, DType::Bf16, w0.to_f32().unwrap(), &[n]).unwrap();
                let mut moments = Moments::new(&gpu, precision, &[n]).unwrap();
                staging.begin();
                state.set(&mut staging, 1, serial, adamw.coefficients(1), Some(1.0)).unwrap();
                let loss = Tensor::from_slice(&gpu, &[loss], &[1]).unwrap();
                step::judge(&loss, &squares, &state, &mut status, &mut metrics).unwrap();
                let rounding = Rounding::default();
                adamw::update_from(&state, &status, rounding, &mut w, &g, &mut moments, None).unwrap();
                (w.to_f32().unwrap(), moments)
            };
            let (_, moments) = after(0.5, 1);
            // The gradient was scaled to a norm of 1: its square is 1 / n, of which a thousandth is kept.
            let second = match precision {
                Precision::Blocks8 => moments.tensors()[3].to_f32().unwrap()[0],
                _ => moments.tensors()[1].to_f32().unwrap()[0],
            };
            assert!((second * 1e3 * n as f32 - 1.0).abs() < 1e-2, "{second} {precision:?} on {gpu}");
            let (w, moments) = after(f32::NAN, 2);
            assert_eq!(w, w0.to_f32().unwrap(), "{precision:?} on {gpu}");
            let absmax = moments.tensors()[if precision == Precision::Blocks8 { 2 } else { 0 }].to_f32().unwrap();
            assert!(absmax.iter().all(|&m| m == 0.0), "{precision:?} on {gpu}");
        }
    }
}
