//! `contrast.cu` against the ops that it stands for.

use super::{compare, compare_large};
use crate::support::{normal_bf16, rng};
use kiungo::device::{DType, Staging, Tensor};
use kiungo::ops::contrast::{self, Contrast, Direction, Loss};
use kiungo::ops::pooling::Pooling;
use kiungo::ops::sequences::{Padded, Sequences};

/// Vectors of `lengths.len() / 2` pairs; `shared` is what all tokens have in common, as the states of an early layer do, and the
/// second text's tokens are zero.
fn case(
    lengths: &'static [usize],
    padding: usize,
    hidden: usize,
    (pooling, loss, direction, excluded): (Pooling, Loss, Direction, bool),
    shared: f32,
) -> impl Fn(&super::Run) -> Vec<Tensor> {
    let (real, texts) = (lengths.iter().sum::<usize>(), lengths.len());
    let (tokens, n) = (real + padding, texts / 2);
    let mut rng = rng(7);
    let mut h = normal_bf16(&mut rng, tokens * hidden);
    // Eighths of what has few digits: bf16 holds the sums.
    h.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 8.0 + shared);
    h[lengths[0] * hidden..(lengths[0] + lengths[1]) * hidden].fill(0.0);
    let mask: Vec<u8> = (0..n * n).map(|i| (i % 5 == 1).into()).collect();
    move |run: &super::Run| {
        let mut sequences = Sequences::with_capacity(run.device, texts, tokens).unwrap();
        let bytes = Staging::bytes(Sequences::staged_bytes(texts, tokens));
        let mut staging = Staging::new(run.device, 1, bytes).unwrap();
        let longest = lengths.iter().copied().max().unwrap();
        sequences.set_padded(&mut staging, lengths, Some(Padded { tokens, longest })).unwrap();
        let mask = Tensor::from_slice(run.device, &mask, &[n, n]).unwrap();
        let what = Contrast { sequences: &sequences, pooling, loss, direction, excluded: excluded.then_some(&mask) };
        let [mut pooled, mut dpooled] = [0; 2].map(|_| run.poisoned_as(DType::F32, &[texts, hidden]));
        let (mut loss, mut dh) = (run.poisoned_as(DType::F32, &[1]), run.poisoned(&[tokens, hidden]));
        let h = run.tensor(&h, &[tokens, hidden]);
        contrast::forward_backward(&h, &what, &mut pooled, &mut dpooled, &mut loss, &mut dh).unwrap();
        vec![pooled, dpooled, loss, dh]
    }
}

const PAIRS: [&[usize]; 4] = [
    &[3, 2],
    &[1, 2, 9, 4, 3, 1],
    &[2, 5, 1, 1, 8, 3, 17, 2, 2, 1, 4, 3, 6, 1],
    &[4, 1, 3, 8, 2, 2, 5, 7, 1, 3, 6, 8, 8, 4, 2, 7],
];
const LOSSES: [Loss; 2] = [Loss::Infonce { temperature: 0.05 }, Loss::Triplet { margin: 0.2 }];

#[test]
fn the_loss_and_the_gradient_of_every_token() {
    for (i, lengths) in PAIRS.into_iter().enumerate() {
        for (j, loss) in LOSSES.into_iter().enumerate() {
            for (k, direction) in [Direction::Forward, Direction::Both].into_iter().enumerate() {
                let hidden = [8, 136, 576, 40][(i + j + k) % 4];
                let pooling = [Pooling::Mean, Pooling::MeanNoSink, Pooling::Last][(i + k) % 3];
                let how = (pooling, loss, direction, (i + j) % 2 == 0);
                let padding = [0, 1, 15, 40][(i + j) % 4];
                let what = format!("contrast {} texts of {hidden}, {how:?}", lengths.len());
                compare(&what, 2e-6, case(lengths, padding, hidden, how, 0.0));
            }
        }
    }
}

#[test]
fn vectors_that_lie_close_together() {
    for loss in LOSSES {
        let how = (Pooling::Mean, loss, Direction::Both, false);
        compare(&format!("contrast, close, {loss:?}"), 2e-5, case(PAIRS[3], 4, 264, how, 4.0));
        compare_large(&format!("contrast of 4096, {loss:?}"), 2e-6, || case(PAIRS[3], 16, 4096, how, 0.0));
        compare_large(&format!("contrast of 4096, close, {loss:?}"), 2e-5, || case(PAIRS[3], 16, 4096, how, 4.0));
    }
}
