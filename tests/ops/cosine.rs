use crate::support::{assert_close, assert_gradient, normal, poisoned, rng, tensor, widen};
use kiungo::ops::cosine;

fn reference(x: &[f64], hidden: usize) -> Vec<f64> {
    let unit = |row: &[f64]| -> Vec<f64> {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter().map(|v| v / norm.max(1e-12)).collect()
    };
    x.chunks(hidden).flat_map(unit).collect()
}

#[test]
fn normalize_matches_float64() {
    for (n, hidden) in [(1, 1), (5, 37), (3, 576)] {
        let x = normal(&mut rng(1), n * hidden);
        let (mut y, mut norm) = (poisoned(&[n, hidden]), poisoned(&[n]));
        cosine::normalize(&tensor(&x, &[n, hidden]), &mut y, &mut norm).unwrap();
        assert_close("y", y.as_slice::<f32>().unwrap(), &reference(&widen(&x), hidden), 1e-6);
        let norms: Vec<f64> = widen(&x).chunks(hidden).map(|r| r.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
        assert_close("norm", norm.as_slice::<f32>().unwrap(), &norms, 1e-6);
    }
}

#[test]
fn backward_matches_central_differences() {
    let (n, hidden) = (3, 11);
    let mut rng = rng(2);
    let (x, dy) = (normal(&mut rng, n * hidden), normal(&mut rng, n * hidden));
    let (mut y, mut norm, mut dx) = (poisoned(&[n, hidden]), poisoned(&[n]), poisoned(&[n, hidden]));
    cosine::normalize(&tensor(&x, &[n, hidden]), &mut y, &mut norm).unwrap();
    cosine::normalize_backward(&tensor(&dy, &[n, hidden]), &y, &norm, &mut dx).unwrap();
    assert_gradient("dx", &widen(&x), dx.as_slice().unwrap(), 1e-5, |x| {
        reference(x, hidden).iter().zip(&dy).map(|(y, &d)| y * d as f64).sum()
    });
}

#[test]
fn a_zero_row_stays_zero_and_finite() {
    let (mut y, mut norm, mut dx) = (poisoned(&[1, 4]), poisoned(&[1]), poisoned(&[1, 4]));
    cosine::normalize(&tensor(&[0.0; 4], &[1, 4]), &mut y, &mut norm).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [0.0; 4]);
    cosine::normalize_backward(&tensor(&[0.0, 1e-12, 0.0, 0.0], &[1, 4]), &y, &norm, &mut dx).unwrap();
    assert_eq!(dx.as_slice::<f32>().unwrap(), [0.0, 1.0, 0.0, 0.0]);
}
