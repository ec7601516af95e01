use super::{LARGE, compare, compare_large};
use crate::support::{gpus, normal_bf16, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::embedding;

#[test]
fn forward_and_backward() {
    let case = |vocab: usize, hidden: usize, ids: Vec<u32>| {
        let (mut rng, tokens) = (rng(1), ids.len());
        let table = normal_bf16(&mut rng, vocab * hidden);
        let dy = normal_bf16(&mut rng, tokens * hidden);
        move |run: &super::Run| {
            let ids = Tensor::from_slice(run.device, &ids, &[tokens]).unwrap();
            let mut dtable = run.f32(&table, &[vocab, hidden]);
            let mut outputs = Vec::new();
            for table in [run.tensor(&table, &[vocab, hidden]), run.f32(&table, &[vocab, hidden])] {
                let mut y = run.poisoned(&[tokens, hidden]);
                embedding::forward(&table, &ids, &mut y).unwrap();
                outputs.push(y);
            }
            embedding::backward(&run.tensor(&dy, &[tokens, hidden]), &ids, &mut dtable).unwrap();
            outputs.push(dtable);
            outputs
        }
    };
    for (vocab, hidden) in [(7, 8), (50, 300)] {
        compare(&format!("embedding {vocab}x{hidden}"), 0.0, case(vocab, hidden, vec![3, 5, 3, 0, 6, 3, 5]));
    }
    // An id of more tokens than are added at a time, and of more than one window of them.
    compare("embedding 530 tokens", 0.0, case(7, 8, (0..530).map(|t| t * t % 7).collect()));
    compare_large("embedding 20000 tokens", 0.0, || case(777, 72, (0..20_000).map(|t| t * t % 777).collect()));
    for [tokens, hidden] in LARGE {
        let ids = (0..tokens as u32).map(|t| t * t % 777).collect();
        compare_large(&format!("embedding {tokens}x{hidden}"), 0.0, || case(777, hidden, ids));
    }
}

#[test]
fn an_id_beyond_the_table_gives_nan() {
    for gpu in gpus() {
        let table = Tensor::zeros(&gpu, DType::F32, &[3, 8]).unwrap();
        let ids = Tensor::from_slice(&gpu, &[2u32, 3], &[2]).unwrap();
        let mut y = Tensor::zeros(&gpu, DType::F32, &[2, 8]).unwrap();
        embedding::forward(&table, &ids, &mut y).unwrap();
        let y = y.to_f32().unwrap();
        assert!(y[..8].iter().all(|&v| v == 0.0) && y[8..].iter().all(|v| v.is_nan()));
    }
}
