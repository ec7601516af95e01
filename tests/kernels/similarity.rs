use crate::support::{fast_gpus, gpus, normal, poisoned_on, rng};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::similarity;

#[test]
fn top_k_is_that_of_the_cpu() {
    check(&[(1, 1, 1), (3, 7, 7), (5, 300, 10)], &gpus());
    check(&[(1, 576, 1), (3, 1536, 10), (127, 4096, 5), (129, 577, 20), (1000, 1190, 10)], &fast_gpus());
}

fn check(cases: &[(usize, usize, usize)], gpus: &[Device]) {
    for &(queries, candidates, k) in cases {
        // Coarse values, so that some are equal; and what sorts in unusual ways.
        let mut values: Vec<f32> =
            normal(&mut rng(1), queries * candidates).iter().map(|x| (x * 4.0).round()).collect();
        for (value, odd) in values.iter_mut().zip([0.0, -0.0, f32::NAN, f32::NEG_INFINITY, f32::INFINITY]) {
            *value = odd;
        }
        let run = |device: &Device| {
            let values = Tensor::from_slice(device, &values, &[queries, candidates]).unwrap();
            let mut scores = poisoned_on(device, DType::F32, &[queries, k]);
            let mut indices = poisoned_on(device, DType::U32, &[queries, k]);
            similarity::top_k(&values, k, &mut scores, &mut indices).unwrap();
            (super::bits(&scores.to_f32().unwrap()), indices.to_vec::<u32>().unwrap())
        };
        let expected = run(&Device::Cpu);
        for gpu in gpus {
            assert_eq!(run(gpu), expected, "{queries}x{candidates}, {k} on {gpu}");
        }
    }
}
