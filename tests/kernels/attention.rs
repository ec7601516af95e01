use super::compare;
use crate::support::{normal_bf16, rng};
use kiungo::device::DType;
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::sequences::Sequences;

#[test]
fn forward_and_backward() {
    let grouped = |query, key_value, dim| Heads { query, key_value, dim };
    let cases: [(&[usize], Heads); 5] = [
        (&[1], grouped(1, 1, 8)),
        (&[5, 1, 17], grouped(4, 2, 16)),
        (&[3, 9], grouped(3, 1, 64)),
        (&[2, 6], grouped(2, 2, 100)),
        (&[4], grouped(2, 1, 130)),
    ];
    for (lengths, heads) in cases {
        let tokens = lengths.iter().sum();
        let (queries, keys) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
        let mut rng = rng(1);
        let [q, d_o] = [0; 2].map(|_| normal_bf16(&mut rng, queries[0] * queries[1]));
        let [k, v] = [0; 2].map(|_| normal_bf16(&mut rng, keys[0] * keys[1]));
        compare(&format!("attention {lengths:?} {heads:?}"), 2e-6, |run| {
            let sequences = Sequences::new(run.device, lengths).unwrap();
            let (q, k, v) = (run.tensor(&q, &queries), run.tensor(&k, &keys), run.tensor(&v, &keys));
            let [mut lse, mut delta] = [0; 2].map(|_| run.poisoned_as(DType::F32, &[tokens, heads.query]));
            let [mut o, mut dq] = [0; 2].map(|_| run.poisoned(&queries));
            let [mut dk, mut dv] = [0; 2].map(|_| run.poisoned(&keys));
            attention::forward(&q, &k, &v, &sequences, heads, &mut o, &mut lse).unwrap();
            let d_o = run.tensor(&d_o, &queries);
            attention::backward(&d_o, &q, &k, &v, &o, &lse, &sequences, heads, &mut dq, &mut dk, &mut dv, &mut delta)
                .unwrap();
            vec![o, lse, dq, dk, dv]
        });
    }
}
