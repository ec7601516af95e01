use super::{compare, compare_large};
use crate::support::{normal, rng};
use kiungo::device::DType;
use kiungo::ops::pairs;

#[test]
fn cosines_and_their_gradient() {
    let case = |[n, hidden]: [usize; 2]| {
        let mut rng = rng(1);
        let (unit, d) = (normal(&mut rng, 2 * n * hidden), normal(&mut rng, n * n));
        move |run: &super::Run| {
            let unit = run.f32(&unit, &[2 * n, hidden]);
            let mut similarity = run.poisoned_as(DType::F32, &[n, n]);
            let mut dunit = run.poisoned_as(DType::F32, &[2 * n, hidden]);
            pairs::forward(&unit, &mut similarity).unwrap();
            pairs::backward(&run.f32(&d, &[n, n]), &unit, &mut dunit).unwrap();
            vec![similarity, dunit]
        }
    };
    for shape in [[1, 1], [3, 40], [5, 577], [9, 64]] {
        compare(&format!("pairs {shape:?}"), 1e-6, case(shape));
    }
    for shape in [[48, 4096], [64, 4096], [129, 576], [1000, 1536]] {
        compare_large(&format!("pairs {shape:?}"), 1e-6, || case(shape));
    }
}
