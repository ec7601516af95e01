use crate::support::{assert_close, assert_same_for_any_threads, poisoned};
use kiungo::ops::normal::{Normal, fill};
use kiungo::ops::philox::philox;

fn values(normal: Normal, n: usize) -> Vec<f32> {
    let mut y = poisoned(&[n]);
    fill(normal, &mut y).unwrap();
    y.to_vec().unwrap()
}

/// The formula in float64.
fn exact(normal: Normal, n: usize) -> Vec<f64> {
    let uniform = |word: u32| (f64::from(word >> 9) + 0.5) / f64::from(1 << 23);
    let pair = |a: u32, b: u32| {
        let radius = (-2.0 * uniform(a).ln()).sqrt() * f64::from(normal.scale);
        let (sin, cos) = (std::f64::consts::TAU * uniform(b)).sin_cos();
        [radius * cos, radius * sin]
    };
    let key = [normal.seed as u32, (normal.seed >> 32) as u32];
    let quad = |q: usize| {
        let [a, b, c, d] = philox([q as u32, (q as u64 >> 32) as u32, normal.stream, u32::MAX], key);
        [pair(a, b), pair(c, d)].concat()
    };
    (0..n.div_ceil(4)).flat_map(quad).take(n).collect()
}

#[test]
fn against_float64() {
    let normal = Normal { seed: 0x1234_5678_9abc_def0, stream: 3, scale: 0.02 };
    for n in [0, 1, 3, 4, 4099, 10_001] {
        assert_close(&format!("{n} values"), &values(normal, n), &exact(normal, n), 1e-6);
    }
}

#[test]
fn moments_are_those_of_a_normal() {
    let n = 1 << 20;
    let values = values(Normal { seed: 1, stream: 0, scale: 1.0 }, n);
    let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / n as f64;
    // Four standard errors each.
    for (power, expected, error) in [(1, 0.0, 1.0), (2, 1.0, 2.0f64), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
        let bound = 4.0 * (error / n as f64).sqrt();
        assert!((moment(power) - expected).abs() < bound, "moment {power}: {}", moment(power));
    }
    let neighbours = values.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / n as f64;
    assert!(neighbours.abs() < 4.0 / (n as f64).sqrt(), "neighbours correlate: {neighbours}");
}

#[test]
fn the_same_for_any_threads() {
    assert_same_for_any_threads("normal", || values(Normal { seed: 5, stream: 1, scale: 1.0 }, 20_000));
}
