use crate::support::{assert_close, assert_same_for_any_threads, normal, rng, tensor};
use kiungo::ops::clip;

#[test]
fn squares_are_summed_by_chunks_into_their_places() {
    let gradient = normal(&mut rng(1), 40_001);
    assert_eq!(clip::sums(40_001), 3);
    let expected: Vec<f64> =
        gradient.chunks(16_384).map(|c| c.iter().map(|&g| f64::from(g) * f64::from(g)).sum()).collect();
    let mut squares = tensor(&[7.0; 5], &[5]);
    clip::squares(&tensor(&gradient, &[40_001]), &mut squares, 1).unwrap();
    let squares = squares.as_slice::<f32>().unwrap();
    assert_close("sums", &squares[1..4], &expected, 1e-7);
    assert_eq!((squares[0], squares[4]), (7.0, 7.0));
    assert_same_for_any_threads("squares", || {
        let mut squares = tensor(&[0.0; 3], &[3]);
        clip::squares(&tensor(&gradient, &[40_001]), &mut squares, 0).unwrap();
        squares.to_vec().unwrap()
    });
}

#[test]
fn a_sum_without_a_place_is_refused() {
    let mut squares = tensor(&[0.0], &[1]);
    let error = clip::squares(&tensor(&[1.0], &[1]), &mut squares, 1).unwrap_err().to_string();
    assert_eq!(error, "clip: 2 sums of squares, and room for 1");
}
