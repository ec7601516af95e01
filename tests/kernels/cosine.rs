use super::{LARGE, compare, compare_large};
use crate::support::{normal, rng};
use kiungo::device::DType;
use kiungo::ops::cosine;

#[test]
fn normalize_and_its_gradient() {
    let case = |[n, hidden]: [usize; 2]| {
        let mut rng = rng(1);
        let (mut x, dy) = (normal(&mut rng, n * hidden), normal(&mut rng, n * hidden));
        x[(n - 1) * hidden..].fill(0.0);
        move |run: &super::Run| {
            let shape = [n, hidden];
            let [mut y, mut dx] = [0; 2].map(|_| run.poisoned_as(DType::F32, &shape));
            let mut norm = run.poisoned_as(DType::F32, &[n]);
            cosine::normalize(&run.f32(&x, &shape), &mut y, &mut norm).unwrap();
            cosine::normalize_backward(&run.f32(&dy, &shape), &y, &norm, &mut dx).unwrap();
            vec![y, norm, dx]
        }
    };
    for shape in [[1, 1], [3, 40], [5, 577]] {
        compare(&format!("cosine {shape:?}"), 1e-6, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("cosine {shape:?}"), 1e-6, || case(shape));
    }
}
