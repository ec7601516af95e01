use super::compare;
use crate::support::{normal_bf16, rng};
use kiungo::ops::residual;

#[test]
fn add() {
    for shape in [[1, 1], [3, 7], [5, 576]] {
        let mut rng = rng(1);
        let [x, y] = [0; 2].map(|_| normal_bf16(&mut rng, shape[0] * shape[1]));
        compare(&format!("residual {shape:?}"), 0.0, |run| {
            let mut x = run.tensor(&x, &shape);
            residual::add(&mut x, &run.tensor(&y, &shape)).unwrap();
            vec![x]
        });
    }
}
