use super::{LARGE, compare, compare_large};
use crate::support::{normal_bf16, rng};
use kiungo::ops::swiglu;

#[test]
fn forward_and_backward() {
    let case = |shape: [usize; 2]| {
        let mut rng = rng(1);
        let [dy, gate, up] = [0; 3].map(|_| normal_bf16(&mut rng, shape[0] * shape[1]));
        move |run: &super::Run| {
            let (dy, gate, up) = (run.tensor(&dy, &shape), run.tensor(&gate, &shape), run.tensor(&up, &shape));
            let [mut y, mut dgate, mut dup] = [0; 3].map(|_| run.poisoned(&shape));
            swiglu::forward(&gate, &up, &mut y).unwrap();
            swiglu::backward(&dy, &gate, &up, &mut dgate, &mut dup).unwrap();
            vec![y, dgate, dup]
        }
    };
    for shape in [[1, 1], [3, 7], [5, 576], [2, 2049]] {
        compare(&format!("swiglu {shape:?}"), 1e-6, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("swiglu {shape:?}"), 1e-6, || case(shape));
    }
}

#[test]
fn far_gates_give_no_nan() {
    let gates = [-1e4f32, -1e3, -200.0, -100.0, -88.0, -60.0, 0.0, 60.0, 88.0, 100.0, 200.0, 1e4];
    compare("swiglu far", 1e-6, |run| {
        let ones = run.tensor(&[1.0; 12], &[12]);
        let gate = run.tensor(&gates, &[12]);
        let [mut y, mut dgate, mut dup] = [0; 3].map(|_| run.poisoned(&[12]));
        swiglu::forward(&gate, &ones, &mut y).unwrap();
        swiglu::backward(&ones, &gate, &ones, &mut dgate, &mut dup).unwrap();
        for t in [&y, &dgate, &dup] {
            assert!(t.to_f32().unwrap().iter().all(|v| v.is_finite()), "{:?} on {}", t.to_f32(), run.device);
        }
        vec![y, dgate, dup]
    });
}
