use super::{compare, compare_large};
use crate::support::{normal_bf16, rng};
use kiungo::device::DType;
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::sequences::Sequences;

#[test]
fn forward_and_backward() {
    let case = |lengths: &'static [usize], hidden: usize, pooling: Pooling| {
        let tokens: usize = lengths.iter().sum();
        let mut rng = rng(1);
        let h = normal_bf16(&mut rng, tokens * hidden);
        let dy = normal_bf16(&mut rng, lengths.len() * hidden);
        move |run: &super::Run| {
            let sequences = Sequences::new(run.device, lengths).unwrap();
            let mut y = run.poisoned_as(DType::F32, &[lengths.len(), hidden]);
            let mut dh = run.poisoned(&[tokens, hidden]);
            pooling::forward(&run.tensor(&h, &[tokens, hidden]), &sequences, pooling, &mut y).unwrap();
            pooling::backward(&run.f32(&dy, &[lengths.len(), hidden]), &sequences, pooling, &mut dh).unwrap();
            vec![y, dh]
        }
    };
    for pooling in [Pooling::Mean, Pooling::MeanNoSink, Pooling::Last] {
        for hidden in [8, 300, 520] {
            compare(&format!("pooling {pooling} {hidden}"), 1e-7, case(&[1, 5, 2, 17, 8], hidden, pooling));
        }
        for hidden in [576, 1536, 4096] {
            let mixed = &[1, 3000, 3, 127, 1, 129, 1000];
            compare_large(&format!("pooling {pooling} {hidden}, long"), 1e-7, || case(mixed, hidden, pooling));
        }
    }
}
