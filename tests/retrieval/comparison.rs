use crate::support::{normal, rng};
use kiungo::retrieval::comparison::{Difference, holm};
use kiungo::retrieval::statistics::Bootstrap;

fn values(seeds: usize, questions: usize, shift: f64, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = rng(seed);
    let row = |_| normal(&mut rng, questions).into_iter().map(|v| f64::from(v) + shift).collect();
    (0..seeds).map(row).collect()
}

#[test]
fn a_difference_is_paired_by_seed_and_question() {
    let clusters: Vec<usize> = (0..120).map(|q| q / 3).collect();
    let second = values(4, 120, 0.0, 1);
    // The noise is shared, so that only pairing sees the shift.
    let first: Vec<Vec<f64>> = second.iter().map(|row| row.iter().map(|v| v + 0.05).collect()).collect();
    let found = Difference::between(&first, &second, &clusters, &Bootstrap::default()).unwrap();
    assert!((found.estimate.value - 0.05).abs() < 1e-12 && (found.estimate.high - found.estimate.low) < 1e-9);
    assert_eq!((found.seeds, found.clusters, found.p), (4, 40, 1e-4));
    let unpaired = Difference::between(&first, &values(4, 120, 0.0, 2), &clusters, &Bootstrap::default()).unwrap();
    assert!(!unpaired.estimate.excludes_zero() && unpaired.p > 0.05, "{unpaired:?}");
}

/// With one seed, the spread over clusters is all there is: the standard error of a mean of cluster means.
#[test]
fn the_detectable_difference_is_the_standard_error_times_two_point_eight() {
    let clusters: Vec<usize> = (0..900).map(|q| q / 3).collect();
    let values = values(1, 900, 0.0, 3);
    let found = Difference::between(&values, &[vec![0.0; 900]], &clusters, &Bootstrap::default()).unwrap();
    let means: Vec<f64> = values[0].chunks(3).map(|c| c.iter().sum::<f64>() / 3.0).collect();
    let mean = means.iter().sum::<f64>() / 300.0;
    let error = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / 299.0 / 300.0).sqrt();
    assert!((found.detectable / (2.8016 * error) - 1.0).abs() < 0.06, "{found:?}, standard error {error}");
}

/// Seeds that differ much widen the interval, however many questions there are.
#[test]
fn seeds_are_a_level_of_their_own() {
    let clusters: Vec<usize> = (0..400).collect();
    let shifts = [0.3, -0.3, 0.2, -0.2];
    let first: Vec<Vec<f64>> = shifts.iter().map(|s| vec![*s; 400]).collect();
    let found = Difference::between(&first, &[vec![0.0; 400]], &clusters, &Bootstrap::default()).unwrap();
    assert!(found.estimate.value.abs() < 1e-12);
    assert!(found.estimate.low < -0.15 && found.estimate.high > 0.15, "{found:?}");
    assert_eq!(found.p, 1.0, "over paragraphs alone, nothing differs");
}

/// All 2^10 sign flips, counted.
#[test]
fn sign_flips_match_the_exact_test() {
    let values = values(1, 10, 0.4, 5);
    let clusters: Vec<usize> = (0..10).collect();
    let observed = values[0].iter().sum::<f64>().abs();
    let sum =
        |bits: u32| -> f64 { (0..10).map(|i| if bits >> i & 1 == 1 { values[0][i] } else { -values[0][i] }).sum() };
    let exact = (0u32..1024).filter(|&bits| sum(bits).abs() >= observed - 1e-12).count() as f64 / 1024.0;
    let found = Difference::between(&values, &[vec![0.0; 10]], &clusters, &Bootstrap::default()).unwrap();
    assert!((found.p - exact).abs() < 4.0 * (exact * (1.0 - exact) / 9999.0).sqrt() + 1e-4, "{} {exact}", found.p);
}

#[test]
fn holm_steps_down() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
    }
    assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let error = |first: &[Vec<f64>], second: &[Vec<f64>], clusters: &[usize]| {
        Difference::between(first, second, clusters, &Bootstrap::default()).unwrap_err().to_string()
    };
    let row = vec![0.0; 3];
    assert_eq!(
        error(&[row.clone(), row.clone(), row.clone()], &[row.clone(), row.clone()], &[0, 1, 2]),
        "seeds of the second: expected 3 values, found 2"
    );
    assert_eq!(
        error(&[vec![0.0; 2]], std::slice::from_ref(&row), &[0, 1, 2]),
        "values of a seed: expected 3 values, found 2"
    );
    assert_eq!(
        error(std::slice::from_ref(&row), std::slice::from_ref(&row), &[7, 7, 7]),
        "clusters to resample: at least 2 are needed, found 1"
    );
}
