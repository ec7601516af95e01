use crate::support::{assert_close, normal, poisoned, rng, tensor, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::similarity;
use rand::Rng;

fn top_k(similarity: &Tensor, k: usize) -> (Vec<f32>, Vec<u32>) {
    let queries = similarity.rows();
    let mut scores = poisoned(&[queries, k]);
    let mut indices = Tensor::zeros(&Device::Cpu, DType::U32, &[queries, k]).unwrap();
    indices.fill_byte(0xFF).unwrap();
    similarity::top_k(similarity, k, &mut scores, &mut indices).unwrap();
    (scores.to_vec().unwrap(), indices.to_vec().unwrap())
}

#[test]
fn matrix_is_every_dot_product() {
    let (q, c, hidden) = (5, 9, 37);
    let mut rng = rng(1);
    let (x, z) = (normal(&mut rng, q * hidden), normal(&mut rng, c * hidden));
    let mut s = poisoned(&[q, c]);
    similarity::matrix(&tensor(&x, &[q, hidden]), &tensor(&z, &[c, hidden]), &mut s).unwrap();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (x, z) = (widen(&x), widen(&z));
    let rows = x.chunks(hidden).flat_map(|a| z.chunks(hidden).map(move |b| dot(a, b)));
    assert_close("similarity", s.as_slice::<f32>().unwrap(), &rows.collect::<Vec<_>>(), 1e-6);
    let mut narrow = Tensor::zeros(&Device::Cpu, DType::Bf16, &[1, 1]).unwrap();
    let one = tensor(&[1.0], &[1, 1]);
    let error = similarity::matrix(&one, &one, &mut narrow).unwrap_err();
    assert_eq!(error.to_string(), "similarity: similarity is bf16, expected f32");
}

#[test]
fn top_k_is_the_head_of_a_stable_sort() {
    let mut rng = rng(2);
    for (q, c) in [(1, 1usize), (3, 7), (4, 240)] {
        // Few different values, so that ties are the rule.
        let s: Vec<f32> = (0..q * c).map(|_| rng.random_range(-4..5) as f32 / 4.0).collect();
        for k in [1, c.div_ceil(3), c] {
            let (mut scores, mut indices) = (Vec::new(), Vec::new());
            for row in s.chunks(c) {
                let mut order: Vec<usize> = (0..c).collect();
                order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap());
                scores.extend(order[..k].iter().map(|&i| row[i]));
                indices.extend(order[..k].iter().map(|&i| i as u32));
            }
            assert_eq!(top_k(&tensor(&s, &[q, c]), k), (scores, indices), "{q} x {c}, k {k}");
        }
    }
}

#[test]
fn zeros_are_equal_and_nan_is_last() {
    let s = tensor(&[f32::NAN, -0.0, 0.0, -3.0, -f32::NAN, 0.5], &[1, 6]);
    let (scores, indices) = top_k(&s, 6);
    assert_eq!(indices, [5, 1, 2, 3, 0, 4]);
    assert!(scores[4].is_nan() && scores[5].is_nan());
}

#[test]
fn bad_k_is_named() {
    let s = tensor(&[0.0; 6], &[2, 3]);
    for k in [0, 4] {
        let mut indices = Tensor::zeros(&Device::Cpu, DType::U32, &[2, k]).unwrap();
        let error = similarity::top_k(&s, k, &mut poisoned(&[2, k]), &mut indices).unwrap_err();
        assert_eq!(error.to_string(), format!("top_k: k is {k}, expected 1 to 3, the candidates"));
    }
}
