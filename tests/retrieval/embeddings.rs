use super::{cosine, random_embeddings, unit};
use crate::support::{assert_close, rng};
use kiungo::retrieval::{Embeddings, Means};

/// Rows of one language, less their mean.
fn centred(rows: &Embeddings) -> Embeddings {
    let language = vec![0; rows.len()];
    rows.centred(&language, &Means::of(rows, &language, |_| true))
}

#[test]
fn rows_must_be_finite_and_of_unit_length() {
    let error = |values: Vec<f32>, width| Embeddings::new(values, width).unwrap_err().to_string();
    assert_eq!(error(vec![1.0, 0.0, 1.0], 2), "embeddings: 3 values do not make rows of 2");
    assert_eq!(error(vec![], 0), "embeddings: 0 values do not make rows of 0");
    assert_eq!(error(vec![0.6, 0.8, 3.0, 4.0], 2), "embedding 1 has norm 5, expected 1: normalise it first");
    assert!(error(vec![1.0, 0.0, 0.0, f32::NAN], 2).starts_with("embedding 1 holds NaN at column 1"));
    assert!(Embeddings::new(vec![1.0, 0.0, 0.0, 0.0], 2).is_ok(), "a row of zeros has no direction, and is allowed");
}

#[test]
fn select_takes_rows_in_the_order_named() {
    let e = random_embeddings(&mut rng(3), 5, 7);
    let s = e.select(&[4, 0, 4]);
    assert_eq!((s.len(), s.width()), (3, 7));
    assert_eq!((s.row(0), s.row(1), s.row(2)), (e.row(4), e.row(0), e.row(4)));
}

#[test]
fn centring_takes_out_what_all_rows_share() {
    let (rows, width) = (40, 24);
    let own = random_embeddings(&mut rng(5), rows, width);
    // A large common direction, as a language's texts have it.
    let shifted = own.rows().flat_map(|row| {
        let row: Vec<f32> = row.iter().enumerate().map(|(i, v)| v + if i == 0 { 5.0 } else { 0.0 }).collect();
        unit(&row)
    });
    let shifted = Embeddings::new(shifted.collect(), width).unwrap();
    assert!(cosine(shifted.row(0), shifted.row(1)) > 0.9);
    let centred = centred(&shifted);

    let mean: Vec<f64> = (0..width).map(|c| shifted.rows().map(|r| f64::from(r[c])).sum::<f64>() / 40.0).collect();
    for i in 0..rows {
        let row: Vec<f64> = shifted.row(i).iter().zip(&mean).map(|(&v, m)| f64::from(v) - m).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        let row: Vec<f64> = row.iter().map(|v| v / norm).collect();
        assert_close("centred row", centred.row(i), &row, 1e-6);
    }
}

#[test]
fn centring_identical_rows_leaves_zeros() {
    let row = unit(&[0.3, -0.2, 0.9]);
    let e = Embeddings::new([row.clone(), row.clone(), row].concat(), 3).unwrap();
    assert!(centred(&e).values().iter().all(|&v| v == 0.0));
}
