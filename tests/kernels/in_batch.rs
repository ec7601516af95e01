//! The losses over a similarity matrix, `infonce.cu` and `triplet.cu`.

use super::compare_on;
use crate::support::{fast_gpus, gpus, normal, rng, under_sanitizer};
use kiungo::device::{DType, Tensor};
use kiungo::ops::infonce::{self, Direction};
use kiungo::ops::triplet;

/// A loss with its gradient over matrices of several sizes, with and without excluded entries.
fn losses(
    what: &str,
    bound: f64,
    loss: impl Fn(&Tensor, Option<&Tensor>, Direction, &mut Tensor, &mut Tensor) -> kiungo::ops::Result,
) {
    let sizes = [2, 33, 1, 70, 127, 129, 1000];
    for n in sizes.into_iter().take(if under_sanitizer() { 2 } else { 7 }) {
        let mut rng = rng(n as u64);
        // Coarse values, so that some negatives are equally hard.
        let similarity: Vec<f32> = normal(&mut rng, n * n).iter().map(|x| (x * 4.0).round() / 8.0).collect();
        let excluded: Vec<u8> = normal(&mut rng, n * n).iter().map(|&x| (x > 1.0).into()).collect();
        for direction in [Direction::Forward, Direction::Both] {
            for some in [false, true] {
                let what = format!("{what} {n} {direction} excluded {some}");
                compare_on(&if n > 70 { fast_gpus() } else { gpus() }, &what, bound, |run| {
                    let excluded = Tensor::from_slice(run.device, &excluded, &[n, n]).unwrap();
                    let [mut value, mut gradient] = [&[1][..], &[n, n]].map(|s| run.poisoned_as(DType::F32, s));
                    let similarity = run.f32(&similarity, &[n, n]);
                    loss(&similarity, some.then_some(&excluded), direction, &mut value, &mut gradient).unwrap();
                    vec![value, gradient]
                });
            }
        }
    }
}

#[test]
fn infonce() {
    losses("infonce", 1e-6, |s, excluded, direction, loss, ds| {
        infonce::forward(s, excluded, 0.05, direction, loss, ds)
    });
}

#[test]
fn hardest_negatives() {
    losses("triplet", 1e-6, |s, excluded, direction, loss, ds| triplet::hardest(s, excluded, direction, 0.2, loss, ds));
}

#[test]
fn given_negatives() {
    for (n, hidden) in [(1, 8), (9, 70), (40, 300), (3, 576), (127, 1536), (129, 4096), (1000, 576)] {
        let mut rng = rng(1);
        let rows = [0; 3].map(|_| normal(&mut rng, n * hidden).iter().map(|x| x / 10.0).collect::<Vec<f32>>());
        let gpus = if hidden > 300 { fast_gpus() } else { gpus() };
        compare_on(&gpus, &format!("given triplets {n}x{hidden}"), 1e-6, |run| {
            let shape = [n, hidden];
            let [a, p, m] = [0, 1, 2].map(|i| run.f32(&rows[i], &shape));
            let [mut da, mut dp, mut dm] = [0; 3].map(|_| run.poisoned_as(DType::F32, &shape));
            let mut loss = run.poisoned_as(DType::F32, &[1]);
            triplet::given(&a, &p, &m, 0.3, &mut loss, &mut da, &mut dp, &mut dm).unwrap();
            vec![loss, da, dp, dm]
        });
    }
}
