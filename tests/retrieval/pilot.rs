use crate::support::{normal, rng};
use kiungo::retrieval::pilot::{linear_cka, most_important};
use nalgebra::DMatrix;

fn random(rows: usize, columns: usize, seed: u64) -> DMatrix<f64> {
    DMatrix::from_row_slice(rows, columns, &normal(&mut rng(seed), rows * columns)).cast()
}

/// `|X'Y|^2 / (|X'X| |Y'Y|)` with centred columns, as the authors of arXiv 2602.05988 code it.
fn by_columns(x: &DMatrix<f64>, y: &DMatrix<f64>) -> f64 {
    let centred = |m: &DMatrix<f64>| DMatrix::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)] - m.column(j).mean());
    let (x, y) = (centred(x), centred(y));
    (x.transpose() * &y).norm_squared() / ((x.transpose() * &x).norm() * (y.transpose() * &y).norm())
}

#[test]
fn cka_by_rows_is_cka_by_columns() {
    for (n, a, b) in [(5, 3, 3), (7, 20, 4), (30, 6, 9)] {
        let (x, y) = (random(n, a, 1), random(n, b, 2));
        assert!((linear_cka(&x, &y) - by_columns(&x, &y)).abs() < 1e-10, "{n} {a} {b}");
    }
}

#[test]
fn cka_sees_no_turn_scale_or_shift() {
    let x = random(12, 4, 3);
    let turn = random(4, 4, 4).qr().q();
    let moved = (&x * turn * 3.0).add_scalar(7.0);
    assert!((linear_cka(&x, &moved) - 1.0).abs() < 1e-10);
    assert_eq!(linear_cka(&x, &DMatrix::from_element(12, 4, 2.0)), 0.0, "rows that are all the same have no shape");
}

#[test]
fn the_blocks_that_change_most_are_named_in_order() {
    assert_eq!(most_important(&[0.1, 0.5, 0.2, 0.4], 2), [1, 3]);
    assert_eq!(most_important(&[0.1, 0.5], 9), [0, 1]);
}
