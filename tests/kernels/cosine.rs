use super::compare;
use crate::support::{normal, rng};
use kiungo::device::DType;
use kiungo::ops::cosine;

#[test]
fn normalize_and_its_gradient() {
    for (n, hidden) in [(1, 1), (3, 40), (5, 577)] {
        let mut rng = rng(1);
        let (mut x, dy) = (normal(&mut rng, n * hidden), normal(&mut rng, n * hidden));
        x[(n - 1) * hidden..].fill(0.0);
        compare(&format!("cosine {n}x{hidden}"), 1e-6, |run| {
            let shape = [n, hidden];
            let [mut y, mut dx] = [0; 2].map(|_| run.poisoned_as(DType::F32, &shape));
            let mut norm = run.poisoned_as(DType::F32, &[n]);
            cosine::normalize(&run.f32(&x, &shape), &mut y, &mut norm).unwrap();
            cosine::normalize_backward(&run.f32(&dy, &shape), &y, &norm, &mut dx).unwrap();
            vec![y, norm, dx]
        });
    }
}
