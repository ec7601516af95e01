use super::compare;
use crate::support::{gpus, normal_bf16, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::rope::{self, Scaling, Table, inverse_frequencies};

#[test]
fn forward_and_backward() {
    for (tokens, heads, head_dim) in [(1, 1, 2), (5, 3, 64), (7, 9, 6)] {
        let mut rng = rng(1);
        let shape = [tokens, heads * head_dim];
        let x = normal_bf16(&mut rng, tokens * heads * head_dim);
        let positions: Vec<u32> = (0..tokens as u32).map(|t| (t * 3) % 11).collect();
        compare(&format!("rope {tokens} {heads}x{head_dim}"), 1e-7, |run| {
            let table = Table::new(run.device, &inverse_frequencies(1e4, head_dim, &Scaling::None), 11).unwrap();
            let positions = Tensor::from_slice(run.device, &positions, &[tokens]).unwrap();
            let (mut forward, mut back) = (run.tensor(&x, &shape), run.tensor(&x, &shape));
            rope::forward(&mut forward, &positions, &table, head_dim).unwrap();
            rope::backward(&mut back, &positions, &table, head_dim).unwrap();
            vec![forward, back]
        });
    }
}

#[test]
fn a_position_beyond_the_table_gives_nan() {
    for gpu in gpus() {
        let table = Table::new(&gpu, &inverse_frequencies(1e4, 2, &Scaling::None), 3).unwrap();
        let positions = Tensor::from_slice(&gpu, &[3u32], &[1]).unwrap();
        let mut x = Tensor::zeros(&gpu, DType::F32, &[1, 2]).unwrap();
        rope::forward(&mut x, &positions, &table, 2).unwrap();
        assert!(x.to_f32().unwrap().iter().all(|v| v.is_nan()));
    }
}
