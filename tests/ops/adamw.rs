use crate::support::{Golden, assert_close, normal, poisoned_as, rng, tensor, widen};
use half::bf16;
use kiungo::device::{DType, Tensor};
use kiungo::ops::adamw::{self, AdamW};

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
