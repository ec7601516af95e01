use super::compare;
use crate::support::{normal_bf16, rng};
use kiungo::ops::swiglu;

#[test]
fn forward_and_backward() {
    for shape in [[1, 1], [3, 7], [5, 576], [2, 2049]] {
        let mut rng = rng(1);
        let [dy, gate, up] = [0; 3].map(|_| normal_bf16(&mut rng, shape[0] * shape[1]));
        compare(&format!("swiglu {shape:?}"), 1e-6, |run| {
            let (dy, gate, up) = (run.tensor(&dy, &shape), run.tensor(&gate, &shape), run.tensor(&up, &shape));
            let [mut y, mut dgate, mut dup] = [0; 3].map(|_| run.poisoned(&shape));
            swiglu::forward(&gate, &up, &mut y).unwrap();
            swiglu::backward(&dy, &gate, &up, &mut dgate, &mut dup).unwrap();
            vec![y, dgate, dup]
        });
    }
}
