use super::{compare, compare_large};
use crate::support::{normal, rng};
use kiungo::ops::clip;

#[test]
fn squares_of_chunks_go_to_their_places() {
    let case = |n: usize| {
        let gradient = normal(&mut rng(n as u64), n);
        move |run: &super::Run| {
            let mut squares = run.f32(&vec![2.0; clip::sums(n) + 2], &[clip::sums(n) + 2]);
            clip::squares(&run.f32(&gradient, &[n]), &mut squares, 1).unwrap();
            vec![squares]
        }
    };
    for n in [1, 7, 1000, 16_384, 33_003] {
        compare(&format!("clip {n}"), 1e-7, case(n));
    }
    compare_large("clip, large", 1e-7, || case(4096 * 1536 + 5));
}
