//! The exponential of the CPU loops.

use kiungo::ops::exp::exp;

#[test]
fn is_within_one_unit_of_float64() {
    let steps = 1 << 20;
    let worst = (0..=steps)
        .map(|i| {
            let x = -87.0 + 175.0 * i as f32 / steps as f32;
            let exact = (x as f64).exp();
            (exp(x) as f64 / exact - 1.0).abs()
        })
        .fold(0.0, f64::max);
    assert!(worst < 1.2e-7, "relative error {worst:.3e}");
    assert_eq!(exp(0.0), 1.0);
}

#[test]
fn the_ends_are_finite() {
    assert_eq!(exp(-1e30), exp(-87.0));
    assert_eq!(exp(1e30), exp(88.0));
    assert!(exp(f32::NAN).is_nan());
}
