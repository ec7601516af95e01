use super::{compare, compare_large};
use crate::support::{gpus, normal_bf16, rng};
use kiungo::device::{DType, Tensor};
use kiungo::ops::rope::{self, Scaling, Table, inverse_frequencies};

#[test]
fn forward_and_backward() {
    let case = |[tokens, heads, head_dim]: [usize; 3]| {
        let mut rng = rng(1);
        let shape = [tokens, heads * head_dim];
        let x = normal_bf16(&mut rng, tokens * heads * head_dim);
        let positions: Vec<u32> = (0..tokens as u32).map(|t| (t * 3) % 11).collect();
        move |run: &super::Run| {
            let table = Table::new(run.device, &inverse_frequencies(1e4, head_dim, &Scaling::None), 11).unwrap();
            let positions = Tensor::from_slice(run.device, &positions, &[tokens]).unwrap();
            let (mut forward, mut back) = (run.tensor(&x, &shape), run.tensor(&x, &shape));
            rope::forward(&mut forward, &positions, &table, head_dim).unwrap();
            rope::backward(&mut back, &positions, &table, head_dim).unwrap();
            let k_shape = [tokens, head_dim];
            let (mut q, mut k) = (run.tensor(&x, &shape), run.tensor(&x[..tokens * head_dim], &k_shape));
            rope::forward_both(&mut q, &mut k, &positions, &table, head_dim).unwrap();
            let (mut dq, mut dk) = (run.tensor(&x, &shape), run.tensor(&x[..tokens * head_dim], &k_shape));
            rope::backward_both(&mut dq, &mut dk, &positions, &table, head_dim).unwrap();
            vec![forward, back, q, k, dq, dk]
        }
    };
    for shape in [[1, 1, 2], [5, 3, 64], [7, 9, 6], [2, 5, 24], [2, 70, 128]] {
        compare(&format!("rope {shape:?}"), 1e-7, case(shape));
    }
    // 576, 1536 and 4096 wide.
    for shape in [[1, 32, 128], [3, 24, 64], [127, 9, 64], [129, 32, 128], [1000, 9, 64], [1000, 32, 128]] {
        compare_large(&format!("rope {shape:?}"), 1e-7, || case(shape));
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
