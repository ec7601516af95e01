use super::{LARGE, compare, compare_large};
use crate::support::{normal_bf16, rng};
use kiungo::ops::residual;

#[test]
fn add() {
    let case = |shape: [usize; 2]| {
        let mut rng = rng(1);
        let [x, y] = [0; 2].map(|_| normal_bf16(&mut rng, shape[0] * shape[1]));
        move |run: &super::Run| {
            let mut x = run.tensor(&x, &shape);
            residual::add(&mut x, &run.tensor(&y, &shape)).unwrap();
            vec![x]
        }
    };
    for shape in [[1, 1], [3, 7], [5, 576]] {
        compare(&format!("residual {shape:?}"), 0.0, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("residual {shape:?}"), 0.0, || case(shape));
    }
}
