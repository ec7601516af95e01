use super::{LARGE, compare, compare_large};
use crate::support::{assert_close, fast_gpus, gpus, normal, poisoned_on, rng};
use kiungo::device::{DType, Device, Staging, Tensor};
use kiungo::ops::adamw::{self, AdamW, LinearLayer, Moments, Precision, Rounding, codes};
use kiungo::ops::step::{self, Metrics, State, Status};
use rand::Rng;

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

fn widened(t: &Tensor) -> Vec<f32> {
    match t.dtype() {
        DType::U8 => t.to_vec::<u8>().unwrap().into_iter().map(f32::from).collect(),
        _ => t.to_f32().unwrap(),
    }
}

/// Weights, then the moments' tensors, then the copy, after some steps, widened to f32.
fn after_steps(device: &Device, n: usize, [w_type, g_type]: [DType; 2], precision: Precision) -> Vec<Vec<f32>> {
    let mut rng = rng(n as u64);
    let mut w = Tensor::from_f32(device, w_type, normal(&mut rng, n), &[n]).unwrap();
    let mut moments = Moments::new(device, precision, &[n]).unwrap();
    let mut copy = (w_type == DType::F32).then(|| poisoned_on(device, DType::Bf16, &[n]));
    for t in 1..4 {
        // Gradients of many magnitudes, so that many codes are used, and blocks of zeros.
        let g = normal(&mut rng, n).into_iter().enumerate();
        let g = g.map(|(i, g)| if (256..700).contains(&i) { 0.0 } else { g * 10f32.powi(-((i % 9) as i32)) }).collect();
        let g = Tensor::from_f32(device, g_type, g, &[n]).unwrap();
        let rounding = Rounding { seed: 7, stream: 3 };
        adamw::update(&AdamW::default(), t, rounding, &mut w, &g, &mut moments, copy.as_mut()).unwrap();
    }
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
                Precision::Blocks8 => {
                    let [codes, exponents] = [1, 3].map(|i| moments.tensors()[i].to_vec::<u8>().unwrap());
                    let values = codes.iter().map(|&code| codes::second_value(code, exponents[0]));
                    values.sum::<f32>() / n as f32
                }
                _ => moments.tensors()[1].to_f32().unwrap()[0],
            };
            assert!((second * 1e3 * n as f32 - 1.0).abs() < 1e-2, "{second} {precision:?} on {gpu}");
            let (w, moments) = after(f32::NAN, 2);
            assert_eq!(w, w0.to_f32().unwrap(), "{precision:?} on {gpu}");
            assert!(
                moments.tensors().into_iter().all(|t| widened(t).iter().all(|&m| m == 0.0)),
                "{precision:?} on {gpu}"
            );
        }
    }
}

/// What learns at once: a linear layer of `[out, in]`, or an embedding of `[vocab, hidden]`, with so many tokens.
#[derive(Clone, Copy, Debug)]
struct AtOnce {
    embedding: bool,
    tokens: usize,
    shape: [usize; 2],
    w_type: DType,
    precision: Precision,
}

impl AtOnce {
    /// Small whole numbers, whose sums are exact in whatever order and type: then the gradient is the CPU's.
    fn operand(device: &Device, rng: &mut impl Rng, rows: usize, columns: usize) -> Tensor {
        let values = (0..rows * columns).map(|_| rng.random_range(-2..=2) as f32).collect();
        let dtype = if device.is_cpu() { DType::F32 } else { DType::Bf16 };
        Tensor::from_f32(device, dtype, values, &[rows, columns]).unwrap()
    }

    /// Two steps, and one whose loss is not finite, which changes nothing: the weights, the moments' tensors and the copy,
    /// widened to f32, and the sum of squares, twice as a pass that measures finds it, too.
    fn run(self, device: &Device) -> (Vec<Vec<f32>>, [f64; 2]) {
        let AtOnce { embedding, tokens, shape, w_type, precision } = self;
        let mut rng = rng(tokens as u64);
        let n = shape[0] * shape[1];
        let mut w = Tensor::from_f32(device, w_type, normal(&mut rng, n), &shape).unwrap();
        let mut moments = Moments::new(device, precision, &shape).unwrap();
        let mut copy = (w_type == DType::F32).then(|| poisoned_on(device, DType::Bf16, &shape));
        let (mut state, mut status) = (State::new(device).unwrap(), Status::new(device).unwrap());
        let mut staging = Staging::new(device, 4, State::BYTES).unwrap();
        let mut squares = Tensor::zeros(device, DType::F32, &[adamw::update_linear_squares(n)]).unwrap();
        let mut measured = Tensor::zeros(device, DType::F32, &[adamw::update_linear_squares(n)]).unwrap();
        for (t, loss) in [(1, 0.5), (2, 0.25), (3, f32::INFINITY)] {
            let (dy, x) =
                (Self::operand(device, &mut rng, tokens, shape[0]), Self::operand(device, &mut rng, tokens, shape[1]));
            let ids: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..shape[0] as u32)).collect();
            let ids = Tensor::from_slice(device, &ids, &[tokens]).unwrap();
            staging.begin();
            state.set(&mut staging, t, t, AdamW::default().coefficients(t), None).unwrap();
            step::begin(&Tensor::from_slice(device, &[loss], &[1]).unwrap(), &mut status).unwrap();
            let rounding = Rounding { seed: 11, stream: 5 };
            let (moments, copy, squares) = (&mut moments, copy.as_mut(), &mut squares);
            if embedding {
                if loss.is_finite() {
                    adamw::measure_embedding(&x, &ids, &w, moments, &mut measured).unwrap();
                }
                adamw::update_embedding(&state, &status, rounding, &x, &ids, &mut w, moments, copy, squares).unwrap();
            } else {
                if loss.is_finite() {
                    adamw::measure_linear(&dy, &x, &w, moments, &mut measured).unwrap();
                }
                adamw::update_linear(&state, &status, rounding, &dy, &x, &mut w, moments, copy, squares).unwrap();
            }
        }
        let sum = |t: &Tensor| t.to_f32().unwrap().into_iter().map(f64::from).sum();
        let tensors = [&w].into_iter().chain(moments.tensors()).chain(copy.iter());
        (tensors.map(widened).collect(), [sum(&squares), sum(&measured)])
    }

    fn check(self, gpu: &Device) {
        let ((expected, norm), (found, found_norm)) = (self.run(&Device::Cpu), self.run(gpu));
        assert!(self.run(gpu) == (found.clone(), found_norm), "{self:?} on {gpu}: a second run");
        for (expected, found) in norm.into_iter().zip(found_norm) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{self:?} on {gpu}: squares {found}, expected {expected}");
        }
        let outputs = expected.len();
        for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let what = format!("{self:?} on {gpu}, output {i}");
            if i == 0 || (self.w_type == DType::F32 && i == outputs - 1) {
                let bound = if i == 0 && self.w_type == DType::F32 { 1e-6 } else { 1e-3 };
                assert_close(&what, found, expected, bound);
                continue;
            }
            let first = expected.iter().zip(found).position(|(e, f)| e.to_bits() != f.to_bits());
            let pair = first.map(|at| (at, expected[at], found[at]));
            assert!(first.is_none(), "{what}: first at {pair:?} of {}", found.len());
        }
    }
}

#[test]
fn matrices_that_learn_at_once_are_those_of_the_cpu() {
    let check = |gpu: &Device, embedding, tokens, shape, precision| {
        for w_type in FLOATS {
            AtOnce { embedding, tokens, shape, w_type, precision }.check(gpu);
        }
    };
    let blocks8 = Precision::Blocks8;
    for gpu in gpus() {
        // Tokens and rows that fill no tile; strips that end within a block's tiles; then rows without a kernel of their own.
        for (tokens, shape) in
            [(1, [8, 256]), (17, [24, 512]), (64, [40, 768]), (33, [104, 384]), (5, [16, 250]), (3, [7, 256])]
        {
            check(&gpu, false, tokens, shape, blocks8);
            check(&gpu, true, tokens, shape, blocks8);
        }
        check(&gpu, false, 20, [16, 256], Precision::Bf16);
        check(&gpu, true, 20, [16, 256], Precision::F32);
    }
    for gpu in fast_gpus() {
        // 128 are the most.
        for (tokens, shape) in
            [(64, [1024, 4096]), (71, [1000, 1536]), (128, [4096, 4096]), (129, [512, 4096]), (400, [1024, 512])]
        {
            check(&gpu, false, tokens, shape, blocks8);
        }
        for (tokens, shape) in [(64, [8192, 4096]), (300, [1000, 576])] {
            check(&gpu, true, tokens, shape, blocks8);
        }
    }
}

/// Layers that read one x, and learn together: their outputs, and the gradient of x.
#[derive(Clone, Debug)]
struct Together {
    tokens: usize,
    inputs: usize,
    outputs: Vec<usize>,
    w_type: DType,
}

impl Together {
    /// As [`AtOnce::run`]; in every step the gradient of x must be that of the weights before it.
    fn run(&self, device: &Device) -> (Vec<Vec<f32>>, f64, Vec<Vec<f32>>) {
        let Together { tokens, inputs, ref outputs, w_type } = *self;
        let mut rng = rng(tokens as u64);
        let tensor = |rng: &mut _, dtype, outputs: usize| {
            Tensor::from_f32(device, dtype, normal(rng, outputs * inputs), &[outputs, inputs]).unwrap()
        };
        let mut weights: Vec<_> = outputs.iter().map(|&n| tensor(&mut rng, w_type, n)).collect();
        let copy = |w: &Tensor| Tensor::from_f32(device, DType::Bf16, w.to_f32().unwrap(), w.shape()).unwrap();
        let mut copies: Vec<_> = weights.iter().map(|w| (w_type == DType::F32).then(|| copy(w))).collect();
        let mut moments: Vec<_> =
            outputs.iter().map(|&n| Moments::new(device, Precision::Blocks8, &[n, inputs]).unwrap()).collect();
        let (mut state, mut status) = (State::new(device).unwrap(), Status::new(device).unwrap());
        let mut staging = Staging::new(device, 4, State::BYTES).unwrap();
        let len = outputs.iter().map(|n| adamw::update_linear_squares(n * inputs)).max().unwrap();
        let mut squares = Tensor::zeros(device, DType::F32, &[len]).unwrap();
        let mut gradients = vec![];
        for (t, loss) in [(1, 0.5), (2, 0.25), (3, f32::INFINITY)] {
            let x = AtOnce::operand(device, &mut rng, tokens, inputs);
            let dy: Vec<_> = outputs.iter().map(|&n| AtOnce::operand(device, &mut rng, tokens, n)).collect();
            let before: Vec<_> =
                weights.iter().zip(&copies).map(|(w, copy)| copy.as_ref().unwrap_or(w).to_f32().unwrap()).collect();
            staging.begin();
            state.set(&mut staging, t, t, AdamW::default().coefficients(t), None).unwrap();
            step::begin(&Tensor::from_slice(device, &[loss], &[1]).unwrap(), &mut status).unwrap();
            let mut dx = poisoned_on(device, x.dtype(), &[tokens, inputs]);
            let each = weights.iter_mut().zip(&mut moments).zip(&mut copies).zip(&dy).enumerate();
            let mut layers: Vec<_> = each
                .map(|(i, (((w, moments), copy), dy))| {
                    let rounding = Rounding { seed: 11, stream: i as u32 };
                    LinearLayer { dy, w, moments, copy: copy.as_mut(), rounding }
                })
                .collect();
            adamw::update_linears(&state, &status, &mut layers, &x, Some(&mut dx), &mut squares).unwrap();
            let dy: Vec<_> = dy.iter().map(|dy| dy.to_f32().unwrap()).collect();
            self.check_gradient(&format!("{self:?} on {device}, step {t}"), &dx, &dy, &before);
            gradients.push(dx.to_f32().unwrap());
        }
        let sum = squares.to_f32().unwrap().into_iter().map(f64::from).sum();
        let tensors = weights.iter().chain(moments.iter().flat_map(|m| m.tensors())).chain(copies.iter().flatten());
        (tensors.map(widened).collect(), sum, gradients)
    }

    /// In f64. A sum in f32 is off by a millionth of what is added up; a result in bf16 is rounded, and where a second product
    /// is added to a rounded first one, twice or thrice.
    fn check_gradient(&self, what: &str, dx: &Tensor, dy: &[Vec<f32>], weights: &[Vec<f32>]) {
        let rounding = if dx.dtype() == DType::Bf16 { 2f64.powi(-8) * dy.len() as f64 } else { 0.0 };
        let inputs = self.inputs;
        for (token, row) in dx.to_f32().unwrap().chunks(inputs).enumerate() {
            let (mut sums, mut sizes) = (vec![0.0; inputs], vec![0.0; inputs]);
            for ((dy, w), &outputs) in dy.iter().zip(weights).zip(&self.outputs) {
                for (w, &dy) in w.chunks(inputs).zip(&dy[token * outputs..]) {
                    for (column, &w) in w.iter().enumerate() {
                        let product = f64::from(dy) * f64::from(w);
                        sums[column] += product;
                        sizes[column] += product.abs();
                    }
                }
            }
            for (column, &found) in row.iter().enumerate() {
                let (expected, bound) = (sums[column], sizes[column] * (1e-6 + rounding));
                let right = (f64::from(found) - expected).abs() <= bound;
                assert!(right, "{what}: dx[{token}, {column}] is {found}, expected {expected} within {bound}");
            }
        }
    }

    fn check(self, gpu: &Device) {
        let ((expected, norm, _), (found, found_norm, gradients)) = (self.run(&Device::Cpu), self.run(gpu));
        assert!(self.run(gpu) == (found.clone(), found_norm, gradients), "{self:?} on {gpu}: a second run");
        assert!((found_norm / norm - 1.0).abs() < 1e-5, "{self:?} on {gpu}: squares {found_norm}, expected {norm}");
        for (i, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let what = format!("{self:?} on {gpu}, output {i}");
            let layers = self.outputs.len();
            if i >= layers && i < layers * 5 {
                let first = expected.iter().zip(found).position(|(e, f)| e.to_bits() != f.to_bits());
                assert!(first.is_none(), "{what}: moments differ first at {first:?} of {}", found.len());
            } else {
                let bound = if self.w_type == DType::F32 && i < layers { 1e-6 } else { 1e-3 };
                assert_close(&what, found, expected, bound);
            }
        }
    }
}

#[test]
fn layers_of_one_x_learn_and_give_its_gradient() {
    let check = |gpu: &Device, tokens, inputs, outputs: &[usize]| {
        for w_type in FLOATS {
            Together { tokens, inputs, outputs: outputs.to_vec(), w_type }.check(gpu);
        }
    };
    for gpu in gpus() {
        for (tokens, inputs, outputs) in
            [(1, 128, &[8][..]), (33, 384, &[104, 24]), (64, 640, &[40, 8, 200]), (5, 250, &[16]), (70, 256, &[7, 9])]
        {
            check(&gpu, tokens, inputs, outputs);
        }
    }
    for gpu in fast_gpus() {
        // Blocks that divide among strips and that do not; more strips than blocks; more tokens than one pass takes.
        for (tokens, inputs, outputs) in [
            (64, 4096, &[1024, 256, 256][..]),
            (64, 14336, &[512]),
            (17, 1536, &[1000, 1000]),
            (60, 5632, &[2048]),
            (9, 17920, &[64]),
            (65, 4096, &[256, 256]),
        ] {
            check(&gpu, tokens, inputs, outputs);
        }
    }
}

/// Against the CPU's f32 product of any numbers: beside a large eps a step is in proportion to the gradient.
#[test]
fn a_gradient_on_tensor_cores_has_the_error_of_f32() {
    let moved = |device: &Device, tokens: usize, shape: [usize; 2]| {
        let mut rng = rng(9);
        let mut operand = |columns: usize| {
            let values = normal(&mut rng, tokens * columns);
            let rounded =
                Tensor::from_f32(&Device::Cpu, DType::Bf16, values, &[tokens, columns]).unwrap().to_f32().unwrap();
            let dtype = if device.is_cpu() { DType::F32 } else { DType::Bf16 };
            Tensor::from_f32(device, dtype, rounded, &[tokens, columns]).unwrap()
        };
        let (dy, x) = (operand(shape[0]), operand(shape[1]));
        let mut w = Tensor::zeros(device, DType::F32, &shape).unwrap();
        let mut moments = Moments::new(device, Precision::Blocks8, &shape).unwrap();
        let (mut state, mut status) = (State::new(device).unwrap(), Status::new(device).unwrap());
        let mut staging = Staging::new(device, 1, State::BYTES).unwrap();
        staging.begin();
        let adamw = AdamW { lr: 1.0, eps: 1e6, ..AdamW::default() };
        state.set(&mut staging, 1, 1, adamw.coefficients(1), None).unwrap();
        step::begin(&Tensor::from_slice(device, &[1.0f32], &[1]).unwrap(), &mut status).unwrap();
        let len = adamw::update_linear_squares(shape[0] * shape[1]);
        let mut squares = Tensor::zeros(device, DType::F32, &[len]).unwrap();
        let rounding = Rounding::default();
        adamw::update_linear(&state, &status, rounding, &dy, &x, &mut w, &mut moments, None, &mut squares).unwrap();
        w.to_f32().unwrap()
    };
    for gpu in gpus() {
        let (tokens, shape) = (50, [40, 512]);
        let (expected, found) = (moved(&Device::Cpu, tokens, shape), moved(&gpu, tokens, shape));
        assert_close(&format!("weights on {gpu}"), &found, &expected, 1e-6);
    }
}
