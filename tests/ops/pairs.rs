use crate::support::{assert_close, normal, rng, tensor, widen};
use kiungo::ops::pairs;

#[test]
fn cosines_and_their_gradient_match_float64() {
    let (n, hidden) = (7, 33);
    let mut rng = rng(1);
    let (unit, d) = (normal(&mut rng, 2 * n * hidden), normal(&mut rng, n * n));
    let (exact, exact_d) = (widen(&unit), widen(&d));
    let row = |i: usize| &exact[i * hidden..(i + 1) * hidden];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let expected: Vec<f64> = (0..n * n).map(|at| dot(row(at / n), row(n + at % n))).collect();
    let weighted = |r: usize, c: usize| -> f64 {
        let weight = |k: usize| if r < n { exact_d[r * n + k] } else { exact_d[k * n + r - n] };
        (0..n).map(|k| weight(k) * row(if r < n { n + k } else { k })[c]).sum()
    };
    let expected_d: Vec<f64> = (0..2 * n * hidden).map(|at| weighted(at / hidden, at % hidden)).collect();

    let unit = tensor(&unit, &[2 * n, hidden]);
    let (mut similarity, mut dunit) =
        (tensor(&vec![0.0; n * n], &[n, n]), tensor(&vec![0.0; 2 * n * hidden], &[2 * n, hidden]));
    pairs::forward(&unit, &mut similarity).unwrap();
    pairs::backward(&tensor(&d, &[n, n]), &unit, &mut dunit).unwrap();
    assert_close("similarity", similarity.as_slice::<f32>().unwrap(), &expected, 1e-6);
    assert_close("dunit", dunit.as_slice::<f32>().unwrap(), &expected_d, 1e-6);
}

#[test]
fn an_odd_number_of_rows_is_refused() {
    let (unit, mut similarity) = (tensor(&[1.0; 3], &[3, 1]), tensor(&[0.0], &[1, 1]));
    let error = pairs::forward(&unit, &mut similarity).unwrap_err().to_string();
    assert_eq!(error, "pairs: 3 rows are no sources and as many targets");
}
