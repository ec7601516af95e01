//! The two losses over a batch, from raw embeddings to their gradients, against the golden float64 ones.

use crate::support::{Golden, assert_close, assert_same_for_any_threads, poisoned};
use kiungo::device::{Device, Tensor};
use kiungo::ops::gemm::{Layout, gemm};
use kiungo::ops::{cosine, infonce, triplet};

const MARGIN: f32 = 0.4;
const TEMPERATURE: f32 = 0.05;

/// Normalise, compare, take the loss, and go back: loss, and gradients of anchors and positives.
fn run(golden: &Golden, loss: impl Fn(&Tensor, &mut Tensor, &mut Tensor)) -> (Tensor, Tensor, Tensor) {
    let [x, z] = ["in_batch.anchor", "in_batch.positive"].map(|name| golden.tensor(name));
    let (n, shape) = (x.rows(), x.shape());
    let [mut a, mut p, mut da, mut dp, mut dx, mut dz] = [0; 6].map(|_| poisoned(shape));
    let [mut x_norm, mut z_norm] = [0; 2].map(|_| poisoned(&[n]));
    let (mut s, mut ds, mut value) = (poisoned(&[n, n]), poisoned(&[n, n]), poisoned(&[1]));
    cosine::normalize(&x, &mut a, &mut x_norm).unwrap();
    cosine::normalize(&z, &mut p, &mut z_norm).unwrap();
    gemm(Layout::Nt, &a, &p, &mut s, false).unwrap();
    loss(&s, &mut value, &mut ds);
    gemm(Layout::Nn, &ds, &p, &mut da, false).unwrap();
    gemm(Layout::Tn, &ds, &a, &mut dp, false).unwrap();
    cosine::normalize_backward(&da, &a, &x_norm, &mut dx).unwrap();
    cosine::normalize_backward(&dp, &p, &z_norm, &mut dz).unwrap();
    (value, dx, dz)
}

#[test]
fn losses_of_embeddings_match_golden() {
    let golden = Golden::open("more.safetensors");
    let mask: Vec<u8> = golden.integers("in_batch.excluded").iter().map(|&e| e as u8).collect();
    let mask = Tensor::from_vec(&Device::Cpu, mask, golden.shape("in_batch.excluded")).unwrap();
    for direction in [triplet::Direction::Forward, triplet::Direction::Both] {
        for (excluded, suffix) in [(None, ""), (Some(&mask), ".excluded")] {
            let hardest = run(&golden, |s, loss, ds| {
                triplet::hardest(s, excluded, direction, MARGIN, loss, ds).unwrap();
            });
            let contrast = run(&golden, |s, loss, ds| {
                infonce::forward(s, excluded, TEMPERATURE, direction, loss, ds).unwrap();
            });
            for (name, (loss, danchor, dpositive)) in [("hardest", hardest), ("infonce", contrast)] {
                let name = format!("in_batch.{name}.{direction}{suffix}");
                for (what, found) in [("loss", loss), ("danchor", danchor), ("dpositive", dpositive)] {
                    let what = format!("{name}.{what}");
                    assert_close(&what, found.as_slice::<f32>().unwrap(), golden.get(&what), 2e-6);
                }
            }
        }
    }
}

#[test]
fn threads_make_no_difference() {
    let golden = Golden::open("more.safetensors");
    let values = |(loss, danchor, dpositive): (Tensor, Tensor, Tensor)| -> Vec<f32> {
        [loss, danchor, dpositive].iter().flat_map(|t| t.to_f32().unwrap()).collect()
    };
    assert_same_for_any_threads("infonce", || {
        values(run(&golden, |s, loss, ds| {
            infonce::forward(s, None, TEMPERATURE, infonce::Direction::Both, loss, ds).unwrap();
        }))
    });
    assert_same_for_any_threads("triplet", || {
        values(run(&golden, |s, loss, ds| {
            triplet::hardest(s, None, triplet::Direction::Both, MARGIN, loss, ds).unwrap();
        }))
    });
}
