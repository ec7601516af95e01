use crate::support::{assert_close, assert_same_for_any_threads, normal, rng, tensor};
use kiungo::ops::clip;

#[test]
fn the_squared_norm_matches_float64_and_is_added() {
    let gradient = normal(&mut rng(1), 40_001);
    let expected: f64 = 3.0 + gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let mut total = tensor(&[3.0], &[1]);
    clip::add_squared_norm(&tensor(&gradient, &[40_001]), &mut total).unwrap();
    assert_close("total", total.as_slice::<f32>().unwrap(), &[expected], 1e-6);
    assert_same_for_any_threads("squared norm", || {
        let mut total = tensor(&[0.0], &[1]);
        clip::add_squared_norm(&tensor(&gradient, &[40_001]), &mut total).unwrap();
        total.to_vec().unwrap()
    });
}

#[test]
fn scaling_reaches_every_element() {
    let gradient = normal(&mut rng(2), 16_390);
    let mut scaled = tensor(&gradient, &[16_390]);
    clip::scale(&mut scaled, 0.5).unwrap();
    assert!(scaled.as_slice::<f32>().unwrap().iter().zip(&gradient).all(|(s, g)| *s == g * 0.5));
}
