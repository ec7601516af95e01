use crate::support::gpus;
use kiungo::device::{DType, Device, Launch, Tensor};
use kiungo::ops::params::PhiloxParams;
use kiungo::ops::philox::Dropout;

#[test]
fn drops_what_the_cpu_drops() {
    const COUNT: usize = 1000;
    let dropout = Dropout { probability: 0.3, seed: 0x1234_5678_9abc_def0, stream: 7, step: 11, first: 0 };
    for device in gpus() {
        // The second range needs the counter's high word.
        for first in [0, (1u64 << 34) - 500] {
            let factors = Tensor::zeros(&device, DType::F32, &[COUNT]).unwrap();
            let params = PhiloxParams {
                factors: factors.address().unwrap(),
                first,
                count: COUNT as u64,
                dropout: Dropout::params(Some(dropout)),
            };
            let Device::Cuda(gpu) = &device else { unreachable!("gpus are GPUs") };
            gpu.launch(&Launch::new("philox", "philox_factors", [COUNT.div_ceil(256) as u32, 1, 1], 256, params))
                .unwrap();
            let expected = |i: u64| if dropout.keep(first + i) { dropout.scale() } else { 0.0 };
            assert_eq!(factors.to_f32().unwrap(), (0..COUNT as u64).map(expected).collect::<Vec<_>>());
        }
    }
}
