use crate::support::{
    assert_bf16, assert_close, assert_gradient, assert_same_for_any_threads, normal, normal_bf16, poisoned,
    poisoned_as, rng, tensor, tensor_as, widen,
};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::sequences::Sequences;
use std::ops::Range;

const CASES: [(Heads, &[usize]); 6] = [
    (Heads { query: 1, key_value: 1, dim: 16 }, &[1]),
    (Heads { query: 4, key_value: 2, dim: 16 }, &[16, 1, 7]),
    (Heads { query: 9, key_value: 3, dim: 64 }, &[3, 200]),
    (Heads { query: 6, key_value: 1, dim: 40 }, &[64, 65, 63]),
    (Heads { query: 2, key_value: 2, dim: 128 }, &[130]),
    (Heads { query: 3, key_value: 3, dim: 18 }, &[1, 1, 1, 1, 1]),
];

fn sequences(lengths: &[usize]) -> Sequences {
    Sequences::new(&Device::Cpu, lengths).unwrap()
}

/// Results and gradients by the definition, in float64.
pub struct Reference {
    pub o: Vec<f64>,
    pub lse: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
}

pub fn reference(q: &[f64], k: &[f64], v: &[f64], d_o: &[f64], lengths: &[usize], heads: Heads) -> Reference {
    let (d, tokens) = (heads.dim, lengths.iter().sum::<usize>());
    let query = |t: usize, h: usize| -> Range<usize> { (t * heads.query + h) * d..(t * heads.query + h + 1) * d };
    let key = |t: usize, h: usize| -> Range<usize> {
        let at = t * heads.key_value + h / (heads.query / heads.key_value);
        at * d..(at + 1) * d
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |to: &mut [f64], scale: f64, x: &[f64]| to.iter_mut().zip(x).for_each(|(to, x)| *to += scale * x);
    let zeros = |like: &[f64]| vec![0.0; like.len()];
    let scale = 1.0 / (d as f64).sqrt();
    let mut r =
        Reference { o: zeros(q), lse: vec![0.0; tokens * heads.query], dq: zeros(q), dk: zeros(k), dv: zeros(v) };
    let mut start = 0;
    for &length in lengths {
        for h in 0..heads.query {
            for t in start..start + length {
                let scores: Vec<f64> = (start..=t).map(|s| scale * dot(&q[query(t, h)], &k[key(s, h)])).collect();
                let lse = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
                r.lse[t * heads.query + h] = lse;
                let p: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
                for (s, p) in (start..).zip(&p) {
                    add(&mut r.o[query(t, h)], *p, &v[key(s, h)]);
                }
                let d_row = &d_o[query(t, h)];
                let delta = dot(d_row, &r.o[query(t, h)]);
                for (s, p) in (start..).zip(&p) {
                    let ds = scale * p * (dot(d_row, &v[key(s, h)]) - delta);
                    add(&mut r.dv[key(s, h)], *p, d_row);
                    add(&mut r.dk[key(s, h)], ds, &q[query(t, h)]);
                    add(&mut r.dq[query(t, h)], ds, &k[key(s, h)]);
                }
            }
        }
        start += length;
    }
    r
}

/// q, k, v and d_o.
pub fn inputs(seed: u64, tokens: usize, heads: Heads) -> [Vec<f32>; 4] {
    let mut rng = rng(seed);
    let (wide, narrow) = (tokens * heads.query * heads.dim, tokens * heads.key_value * heads.dim);
    [wide, narrow, narrow, wide].map(|n| normal_bf16(&mut rng, n))
}

/// o, lse, dq, dk and dv of the CPU.
fn run(dtype: DType, [q, k, v, d_o]: &[Vec<f32>; 4], lengths: &[usize], heads: Heads) -> [Tensor; 5] {
    let tokens = lengths.iter().sum();
    let (wide, narrow) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
    let sequences = sequences(lengths);
    let (q, d_o) = (tensor_as(dtype, q, &wide), tensor_as(dtype, d_o, &wide));
    let (k, v) = (tensor_as(dtype, k, &narrow), tensor_as(dtype, v, &narrow));
    let (mut o, mut lse) = (poisoned_as(dtype, &wide), poisoned(&[tokens, heads.query]));
    attention::forward(&q, &k, &v, &sequences, heads, &mut o, &mut lse).unwrap();
    let (mut dq, mut dk, mut dv) =
        (poisoned_as(dtype, &wide), poisoned_as(dtype, &narrow), poisoned_as(dtype, &narrow));
    let mut delta = poisoned(&[tokens, heads.query]);
    attention::backward(&d_o, &q, &k, &v, &o, &lse, &sequences, heads, &mut dq, &mut dk, &mut dv, &mut delta).unwrap();
    [o, lse, dq, dk, dv]
}

#[test]
fn matches_float64() {
    for (heads, lengths) in CASES {
        let x = inputs(1, lengths.iter().sum(), heads);
        let found = run(DType::F32, &x, lengths, heads);
        let [q, k, v, d_o] = x.map(|x| widen(&x));
        let exact = reference(&q, &k, &v, &d_o, lengths, heads);
        let expected = [("o", exact.o), ("lse", exact.lse), ("dq", exact.dq), ("dk", exact.dk), ("dv", exact.dv)];
        for ((what, expected), found) in expected.iter().zip(&found) {
            let what = format!("{what} of {heads:?} {lengths:?}");
            if expected.iter().all(|&x| x.abs() < 1e-12) {
                // One token alone: its weight is 1 whatever its score is.
                assert!(found.as_slice::<f32>().unwrap().iter().all(|x| x.abs() < 1e-5), "{what}");
            } else {
                assert_close(&what, found.as_slice::<f32>().unwrap(), expected, 2e-6);
            }
        }
    }
}

#[test]
fn backward_matches_central_differences_across_tiles() {
    let (heads, lengths) = (Heads { query: 4, key_value: 2, dim: 4 }, [3, 67]);
    let x = inputs(2, 70, heads);
    let [_, _, dq, dk, dv] = run(DType::F32, &x, &lengths, heads);
    let [q, k, v, d_o] = x.map(|x| widen(&x));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
        let o = reference(q, k, v, &vec![0.0; q.len()], &lengths, heads).o;
        o.iter().zip(&d_o).map(|(o, d)| o * d).sum()
    };
    assert_gradient("dq", &q, dq.as_slice().unwrap(), 1e-5, |q| loss(q, &k, &v));
    assert_gradient("dk", &k, dk.as_slice().unwrap(), 1e-5, |k| loss(&q, k, &v));
    assert_gradient("dv", &v, dv.as_slice().unwrap(), 1e-5, |v| loss(&q, &k, v));
}

#[test]
fn bf16_rounds_once() {
    let (heads, lengths) = (Heads { query: 4, key_value: 2, dim: 32 }, [5, 90]);
    let x = inputs(3, 95, heads);
    let [o, lse, dq, dk, dv] = run(DType::Bf16, &x, &lengths, heads);
    let [q, k, v, d_o] = x.map(|x| widen(&x));
    let exact = reference(&q, &k, &v, &d_o, &lengths, heads);
    assert_close("lse", lse.as_slice::<f32>().unwrap(), &exact.lse, 1e-6);
    for (what, found, exact) in [("o", o, exact.o), ("dq", dq, exact.dq), ("dk", dk, exact.dk), ("dv", dv, exact.dv)] {
        assert_bf16(what, &found, &exact);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let (heads, lengths) = (Heads { query: 1, key_value: 1, dim: 16 }, [9]);
    let mut x = inputs(4, 9, heads);
    x[0].iter_mut().for_each(|q| *q *= 1000.0);
    let found = run(DType::F32, &x, &lengths, heads);
    assert!(found.iter().all(|t| t.as_slice::<f32>().unwrap().iter().all(|x| x.is_finite())));
}

#[test]
fn a_sequence_has_the_same_bytes_alone_and_packed() {
    let heads = Heads { query: 4, key_value: 2, dim: 16 };
    let mut rng = rng(5);
    let (wide, narrow) = (64, 32);
    let lengths = [70, 5];
    let x = [wide, narrow, narrow, wide].map(|columns| normal(&mut rng, 75 * columns));
    let packed = run(DType::F32, &x, &lengths, heads);
    let last = [wide, narrow, narrow, wide];
    let alone = [0, 1, 2, 3].map(|i| x[i][70 * last[i]..].to_vec());
    let alone = run(DType::F32, &alone, &lengths[1..], heads);
    for (packed, alone) in packed.iter().zip(&alone) {
        let (packed, alone) = (packed.to_vec::<f32>().unwrap(), alone.to_vec::<f32>().unwrap());
        assert_eq!(packed[packed.len() - alone.len()..], alone);
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let (heads, lengths) = (Heads { query: 6, key_value: 2, dim: 24 }, [140, 1, 9, 9]);
    let x = inputs(6, 159, heads);
    assert_same_for_any_threads("attention", || {
        run(DType::F32, &x, &lengths, heads).iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect()
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let heads = Heads { query: 4, key_value: 2, dim: 8 };
    let zeros = |columns: usize| Tensor::zeros(&Device::Cpu, DType::F32, &[3, columns]).unwrap();
    let error = |k: &Tensor, lengths: &[usize], heads: Heads| {
        let s = sequences(lengths);
        let q = tensor(&[0.0; 96], &[3, 32]);
        attention::forward(&q, k, &zeros(16), &s, heads, &mut zeros(32), &mut zeros(4)).unwrap_err().to_string()
    };
    assert_eq!(error(&zeros(32), &[3], heads), "attention: k has shape [3, 32], expected [3, 16]");
    assert_eq!(error(&zeros(16), &[2], heads), "attention: sequences' positions has shape [2], expected [3]");
    let bf16 = Tensor::zeros(&Device::Cpu, DType::Bf16, &[3, 16]).unwrap();
    assert_eq!(error(&bf16, &[3], heads), "attention: k is bf16, expected f32");
    let odd = Heads { query: 4, key_value: 3, dim: 8 };
    assert_eq!(
        error(&zeros(16), &[3], odd),
        "attention: 4 query heads of 8 features cannot share 3 key and value heads evenly"
    );
}
