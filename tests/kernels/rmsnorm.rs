use super::{LARGE, compare, compare_large};
use crate::support::{gpus, normal_bf16, poisoned_on, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::{residual, rmsnorm};

#[test]
fn forward_and_backward() {
    let case = |[tokens, hidden]: [usize; 2]| {
        let mut rng = rng(1);
        let [x, dy, dx] = [0; 3].map(|_| normal_bf16(&mut rng, tokens * hidden));
        let [weight, dweight] = [0; 2].map(|_| normal_bf16(&mut rng, hidden));
        move |run: &super::Run| {
            let shape = [tokens, hidden];
            let data = &x;
            let (x, dy, weight) = (run.tensor(data, &shape), run.tensor(&dy, &shape), run.f32(&weight, &[hidden]));
            let (mut y, mut inv_rms) = (run.poisoned(&shape), run.poisoned_as(DType::F32, &[tokens]));
            rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
            let (mut dx, mut dweight) = (run.tensor(&dx, &shape), run.f32(&dweight, &[hidden]));
            rmsnorm::backward(&dy, &x, &weight, &inv_rms, &mut dx, Some(&mut dweight)).unwrap();
            // The residual is what else there is at hand.
            let (mut sum, mut normed, mut inv_rms_of_sum) =
                (run.tensor(data, &shape), run.poisoned(&shape), run.poisoned_as(DType::F32, &[tokens]));
            rmsnorm::forward_residual(&mut sum, &dy, &weight, 1e-5, &mut normed, &mut inv_rms_of_sum).unwrap();
            vec![y, inv_rms, dx, dweight, sum, normed, inv_rms_of_sum]
        }
    };
    // The CPU sums a row in its order, and so is itself off by more the longer it is.
    let bound = |hidden: usize| 2e-6f64.max(1e-9 * hidden as f64);
    for shape in [[1, 8], [3, 576], [127, 40], [17, 41], [2, 8200], [3, 8201]] {
        compare(&format!("rmsnorm {shape:?}"), bound(shape[1]), case(shape));
    }
    for shape in LARGE.into_iter().chain([[4097, 4096], [300, 8192], [5, 16384]]) {
        compare_large(&format!("rmsnorm {shape:?}"), bound(shape[1]), || case(shape));
    }
}

#[test]
fn a_residual_is_added_as_by_itself() {
    for gpu in gpus() {
        for shape in [[5, 576], [2, 33]] {
            let mut rng = rng(1);
            let [x, residual] = [0; 2].map(|_| normal_bf16(&mut rng, shape[0] * shape[1]));
            let weight = Tensor::from_slice(&gpu, &normal_bf16(&mut rng, shape[1]), &[shape[1]]).unwrap();
            let tensor = |data: &[f32]| Tensor::from_f32(&gpu, DType::Bf16, data.to_vec(), &shape).unwrap();
            let (mut x1, mut x2, residual) = (tensor(&x), tensor(&x), tensor(&residual));
            let [mut y1, mut y2] = [0; 2].map(|_| poisoned_on(&gpu, DType::Bf16, &shape));
            let [mut inv1, mut inv2] = [0; 2].map(|_| poisoned_on(&gpu, DType::F32, &shape[..1]));
            residual::add(&mut x1, &residual).unwrap();
            rmsnorm::forward(&x1, &weight, 1e-5, &mut y1, &mut inv1).unwrap();
            rmsnorm::forward_residual(&mut x2, &residual, &weight, 1e-5, &mut y2, &mut inv2).unwrap();
            for (one, other) in [(x1, x2), (y1, y2), (inv1, inv2)] {
                assert_eq!(one.to_f32().unwrap(), other.to_f32().unwrap(), "{shape:?} on {gpu}");
            }
        }
    }
}
