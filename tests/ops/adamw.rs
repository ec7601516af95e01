use crate::support::{Golden, assert_close, normal, poisoned_as, rng, tensor, tensor_as, widen};
use half::bf16;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::adamw::{self, AdamW, Moments, Precision, Rounding, codes};
use rand::Rng;

struct State {
    w: Tensor,
    m: Tensor,
    v: Tensor,
}

impl State {
    fn new(w: &[f32]) -> State {
        let shape = [w.len()];
        State { w: tensor(w, &shape), m: tensor(&vec![0.0; w.len()], &shape), v: tensor(&vec![0.0; w.len()], &shape) }
    }

    fn step(&mut self, adamw: &AdamW, t: u32, g: &[f32], copy: Option<&mut Tensor>) {
        adamw::step(adamw, t, &mut self.w, &tensor(g, &[g.len()]), &mut self.m, &mut self.v, copy).unwrap();
    }
}

#[test]
fn steps_match_torch() {
    let golden = Golden::open("more.safetensors");
    let gradients = golden.f32("adamw.gradients");
    let w0 = golden.f32("adamw.w0");
    let mut state = State::new(&w0);
    for ((t, &lr), g) in (1..).zip(golden.get("adamw.lr")).zip(gradients.chunks(w0.len())) {
        let adamw = AdamW { lr, beta1: 0.8, beta2: 0.999, eps: 1e-6, weight_decay: 0.1 };
        state.step(&adamw, t, g, None);
    }
    // A few neighbours at a time: all together span twelve orders of magnitude.
    for (name, found) in [("w", &state.w), ("m", &state.m), ("v", &state.v)] {
        let expected = golden.get(&format!("adamw.{name}"));
        for (found, expected) in found.as_slice::<f32>().unwrap().chunks(16).zip(expected.chunks(16)) {
            assert_close(name, found, expected, 1e-6);
        }
    }
    let moved: Vec<f64> = widen(&w0).iter().zip(golden.get("adamw.w")).map(|(w0, w)| w - w0).collect();
    let found: Vec<f32> = state.w.as_slice::<f32>().unwrap().iter().zip(&w0).map(|(w, w0)| w - w0).collect();
    assert_close("update", &found, &moved, 1e-5);
}

#[test]
fn first_step_of_a_model_matches_torch() {
    let weights = Golden::open("tiny-llama/model.safetensors");
    let (gradients, golden) = (Golden::open("grads_a.safetensors"), Golden::open("adamw_a.safetensors"));
    for name in weights.names() {
        // Of the two large matrices the file holds the first rows.
        let stored = if golden.names().contains(&name) { name.to_string() } else { format!("{name}[:128]") };
        let expected = golden.get(&stored);
        let mut state = State::new(&weights.f32(name)[..expected.len()]);
        state.step(&AdamW::default(), 1, &gradients.f32(name)[..expected.len()], None);
        assert_close(name, state.w.as_slice::<f32>().unwrap(), expected, 1e-7);
    }
}

#[test]
fn the_copy_holds_the_new_weights_rounded() {
    // More than one chunk, and an uneven last one.
    let n = 20_011;
    let mut rng = rng(1);
    let (w, g) = (normal(&mut rng, n), normal(&mut rng, n));
    let mut plain = State::new(&w);
    plain.step(&AdamW::default(), 1, &g, None);
    let expected = plain.w.to_f32().unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        let (mut state, mut copy) = (State::new(&w), poisoned_as(dtype, &[n]));
        state.step(&AdamW::default(), 1, &g, Some(&mut copy));
        assert_eq!(state.w.to_f32().unwrap(), expected);
        let round = |&w: &f32| if dtype == DType::F32 { w } else { bf16::from_f32(w).to_f32() };
        assert_eq!(copy.to_f32().unwrap(), expected.iter().map(round).collect::<Vec<_>>());
    }
}

#[test]
fn bad_arguments_are_named() {
    let mut state = State::new(&[1.0, 2.0]);
    let mut error = |adamw: AdamW, t: u32, g: &[f32]| {
        let g = tensor(g, &[g.len()]);
        adamw::step(&adamw, t, &mut state.w, &g, &mut state.m, &mut state.v, None).unwrap_err().to_string()
    };
    let default = AdamW::default();
    assert_eq!(error(default, 0, &[0.0; 2]), "adamw: step 0: steps count from 1");
    let beta = AdamW { beta2: 1.0, ..default };
    assert_eq!(error(beta, 1, &[0.0; 2]), "adamw: beta2 is 1, expected 0 or more and below 1");
    let lr = AdamW { lr: f64::NAN, ..default };
    assert_eq!(error(lr, 1, &[0.0; 2]), "adamw: lr is NaN, expected 0 or more");
    assert_eq!(error(default, 1, &[0.0; 3]), "adamw: g has shape [3], expected [2]");
}

#[test]
fn e4m3_is_nearest_and_even() {
    let values: Vec<f64> = (0..127u8).map(|code| codes::e4m3_value(code).into()).collect();
    // The format's own numbers: the least, the largest subnormal, the least normal, 1, the largest.
    for (code, value) in [(1, 2f64.powi(-9)), (7, 7.0 / 512.0), (8, 1.0 / 64.0), (56, 1.0), (126, 448.0)] {
        assert_eq!(values[code], value);
    }
    let midpoints = values.windows(2).map(|pair| (pair[0] + pair[1]) as f32 / 2.0);
    let near = midpoints.chain(values.iter().map(|&v| v as f32)).flat_map(|x| [x, x.next_up(), x.next_down()]);
    let random = normal(&mut rng(1), 20_000).into_iter().map(|x| x * 3.0).map(|x| x.exp2().min(448.0));
    for x in near.chain(random).filter(|x| (0.0..464.0).contains(x)) {
        let code = codes::e4m3(x);
        let distance = |code: u8| (values[code as usize] - f64::from(x)).abs();
        for other in [code.saturating_sub(1), (code + 1).min(126)] {
            let nearer = distance(code) < distance(other) || other == code;
            assert!(nearer || distance(code) == distance(other) && code.is_multiple_of(2), "{x}: {code} or {other}");
        }
        assert_eq!(codes::e4m3(-x), code | 0x80);
        assert_eq!(codes::e4m3_value(code | 0x80), -codes::e4m3_value(code));
    }
}

#[test]
fn moments_of_any_magnitude_keep_their_precision() {
    let mut rng = rng(2);
    for power in -110..127 {
        let most = 2f32.powi(power) * rng.random_range(1.0..2.0);
        let exponent = codes::first_exponent(most);
        for share in [1.0, 0.7, 1e-2, 7e-5] {
            let x = most * share;
            let found = codes::e4m3_value(codes::first_code(x, exponent)) * codes::first_scale(exponent);
            assert!((found / x - 1.0).abs() <= 1.0 / 16.0, "{x} of {most}: {found}");
        }
        if power < -90 {
            continue;
        }
        let exponent = codes::second_exponent(most);
        for share in [1.0, 0.7, 1e-2, 1e-5, 1e-9] {
            let x = most * share;
            let code = |random| codes::second_value(codes::second_code(x, exponent, random), exponent);
            let (below, above) = (code(0), code(0xff_ffff));
            assert!(below <= x && x <= above && above / below <= 1.125, "{x} of {most}: {below}, {above}");
            let evenly = (0..4096).map(|i| f64::from(code(i << 12))).sum::<f64>() / 4096.0;
            assert!((evenly / f64::from(x) - 1.0).abs() < 1e-4, "{x}: {evenly} on average");
        }
        assert!(codes::second_value(codes::second_code(0.0, exponent, 0), exponent) > 0.0);
    }
    // Blocks as they begin.
    assert_eq!([codes::first_exponent(0.0), codes::second_exponent(0.0), codes::first_code(0.0, 0)], [0; 3]);
    assert_eq!(codes::second_code(0.0, 0, 0), 0);
}

#[test]
fn small_steps_of_second_moments_are_kept_on_average() {
    const N: usize = 4096;
    let (mut w, g) = (tensor(&[1.0; N], &[N]), tensor(&[1.0; N], &[N]));
    let mut moments = Moments::new(&Device::Cpu, Precision::Blocks8, &[N]).unwrap();
    let (adamw, steps) = (AdamW { lr: 0.0, ..AdamW::default() }, 700);
    for t in 1..=steps {
        adamw::update(&adamw, t, Rounding::default(), &mut w, &g, &mut moments, None).unwrap();
    }
    let [codes, exponents] = [1, 3].map(|i| moments.tensors()[i].to_vec::<u8>().unwrap());
    let values = codes.iter().enumerate().map(|(i, &code)| codes::second_value(code, exponents[i / adamw::BLOCK]));
    let mean = values.map(f64::from).sum::<f64>() / N as f64;
    let expected = 1.0 - adamw.beta2.powi(steps as i32);
    // Rounding to nearest would stop at a fiftieth, where a step is half the distance of two codes.
    assert!((mean / expected - 1.0).abs() < 0.01, "{mean}, expected {expected}");
    assert_eq!(w.to_f32().unwrap(), vec![1.0; N], "a learning rate of 0");
}

/// Weights after `steps` of a gradient that is `noise` around a drift.
fn trained(w_type: DType, precision: Precision, steps: u32) -> Vec<f32> {
    const N: usize = 2048;
    let mut rng = rng(5);
    let mut w = tensor_as(w_type, &vec![1.0; N], &[N]);
    let mut moments = Moments::new(&Device::Cpu, precision, &[N]).unwrap();
    let adamw = AdamW { lr: 1e-4, weight_decay: 0.0, ..AdamW::default() };
    for t in 1..=steps {
        let g: Vec<f32> = normal(&mut rng, N).iter().map(|noise| 1.0 + noise).collect();
        let rounding = Rounding { seed: 1, stream: 0 };
        adamw::update(&adamw, t, rounding, &mut w, &tensor(&g, &[N]), &mut moments, None).unwrap();
    }
    w.to_f32().unwrap()
}

#[test]
fn few_bits_move_weights_as_many_do() {
    let mean = |w: Vec<f32>| w.iter().map(|&w| f64::from(w) - 1.0).sum::<f64>() / w.len() as f64;
    let steps = 60;
    let exact = mean(trained(DType::F32, Precision::F32, steps));
    // A step is 1e-4, of which bf16 beside 1 would keep nothing: it rounds to 2^-8.
    assert!((-6e-3..-3e-3).contains(&exact), "{exact}");
    for w_type in [DType::F32, DType::Bf16] {
        for precision in [Precision::F32, Precision::Bf16, Precision::Blocks8] {
            let found = mean(trained(w_type, precision, steps));
            assert!((found / exact - 1.0).abs() < 0.1, "{w_type} weights, moments {precision:?}: {found}, f32 {exact}");
        }
    }
}

#[test]
fn what_an_update_cannot_take_is_refused() {
    let n = [4];
    let mut moments = Moments::new(&Device::Cpu, Precision::Blocks8, &n).unwrap();
    let (mut w, g) = (tensor_as(DType::Bf16, &[1.0; 4], &n), tensor(&[1.0; 4], &n));
    let mut update = |w: &mut Tensor, g: &Tensor, copy: Option<&mut Tensor>| {
        let adamw = AdamW::default();
        adamw::update(&adamw, 1, Rounding::default(), w, g, &mut moments, copy).unwrap_err().to_string()
    };
    let mut copy = tensor(&[0.0; 4], &n);
    let refused = update(&mut w, &g, Some(&mut copy));
    assert_eq!(refused, "adamw: a copy of bf16 weights: they are read as they are");
    assert_eq!(update(&mut w, &tensor(&[1.0; 3], &[3]), None), "adamw: g has shape [3], expected [4]");
    let mut other = tensor(&[1.0; 3], &[3]);
    assert_eq!(update(&mut other, &tensor(&[1.0; 3], &[3]), None), "adamw: moments has shape [4], expected [3]");
    let mut bytes = Tensor::from_slice(&Device::Cpu, &[0u8; 4], &n).unwrap();
    assert_eq!(update(&mut bytes, &g, None), "adamw: w is u8, expected f32 or bf16");
}
