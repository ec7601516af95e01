use super::{LARGE, compare, compare_large};
use crate::support::{normal_bf16, rng};
use kiungo::device::DType;
use kiungo::ops::rmsnorm;

#[test]
fn forward_and_backward() {
    let case = |[tokens, hidden]: [usize; 2]| {
        let mut rng = rng(1);
        let [x, dy, dx] = [0; 3].map(|_| normal_bf16(&mut rng, tokens * hidden));
        let [weight, dweight] = [0; 2].map(|_| normal_bf16(&mut rng, hidden));
        move |run: &super::Run| {
            let shape = [tokens, hidden];
            let (x, dy, weight) = (run.tensor(&x, &shape), run.tensor(&dy, &shape), run.f32(&weight, &[hidden]));
            let (mut y, mut inv_rms) = (run.poisoned(&shape), run.poisoned_as(DType::F32, &[tokens]));
            rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
            let (mut dx, mut dweight) = (run.tensor(&dx, &shape), run.f32(&dweight, &[hidden]));
            rmsnorm::backward(&dy, &x, &weight, &inv_rms, &mut dx, Some(&mut dweight)).unwrap();
            vec![y, inv_rms, dx, dweight]
        }
    };
    for shape in [[1, 8], [3, 576], [127, 40], [17, 41]] {
        compare(&format!("rmsnorm {shape:?}"), 2e-6, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("rmsnorm {shape:?}"), 2e-6, || case(shape));
    }
}
