use super::compare;
use crate::support::{normal_bf16, rng};
use kiungo::device::DType;
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::sequences::Sequences;

#[test]
fn forward_and_backward() {
    let lengths = [1, 5, 2, 17];
    let tokens: usize = lengths.iter().sum();
    for hidden in [8, 300] {
        for pooling in [Pooling::Mean, Pooling::MeanNoSink, Pooling::Last] {
            let mut rng = rng(1);
            let h = normal_bf16(&mut rng, tokens * hidden);
            let dy = normal_bf16(&mut rng, lengths.len() * hidden);
            compare(&format!("pooling {pooling} {hidden}"), 1e-7, |run| {
                let sequences = Sequences::new(run.device, &lengths).unwrap();
                let mut y = run.poisoned_as(DType::F32, &[lengths.len(), hidden]);
                let mut dh = run.poisoned(&[tokens, hidden]);
                pooling::forward(&run.tensor(&h, &[tokens, hidden]), &sequences, pooling, &mut y).unwrap();
                pooling::backward(&run.f32(&dy, &[lengths.len(), hidden]), &sequences, pooling, &mut dh).unwrap();
                vec![y, dh]
            });
        }
    }
}
