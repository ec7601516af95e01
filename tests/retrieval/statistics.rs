use crate::support::{normal, rng};
use kiungo::retrieval::statistics::{Bootstrap, Change, Estimate, McNemar, PairedT, Summary, two_sided};
use rand::{Rng, seq::SliceRandom};
use statrs::distribution::{ContinuousCDF, StudentsT};

fn widen(x: Vec<f32>) -> Vec<f64> {
    x.into_iter().map(f64::from).collect()
}

/// Ngugi 2025 (arXiv 2506.15415): t and p are given to the digits shown, the summaries to four decimals.
#[test]
fn the_published_tests_are_reproduced() {
    let trained = two_sided(54.884, 622.0);
    assert!((trained.p / 1.33e-240 - 1.0).abs() < 0.01, "{trained}");
    assert!((trained.log10 - 1.33e-240f64.log10()).abs() < 0.004, "{trained}");
    let control = two_sided(18.453, 62.0);
    assert!((control.p / 7.17e-27 - 1.0).abs() < 0.01, "{control}");

    let test = PairedT::from_summary(&Summary { n: 623, mean: 0.0902, sd: 0.0410 });
    // Half a unit of the last digit of the mean and of the deviation moves t by 0.2 %.
    assert!((test.t / 54.884 - 1.0).abs() < 0.002, "{}", test.t);
    assert_eq!(test.df, 622.0);
    assert!((test.dz - 2.20).abs() < 0.005);
    let test = PairedT::from_summary(&Summary { n: 63, mean: 0.0890, sd: 0.0383 });
    assert!((test.t / 18.453 - 1.0).abs() < 0.002, "{}", test.t);
    assert!((test.dz - 2.33).abs() < 0.01);
}

#[test]
fn t_probabilities_match_the_distribution_and_never_underflow() {
    for df in [1.0, 2.0, 7.0, 62.0, 622.0, 13089.0] {
        let student = StudentsT::new(0.0, 1.0, df).unwrap();
        for t in [0.0, 0.01, 0.5, 1.0, 1.9, 2.5, 4.0, 8.0] {
            let expected = 2.0 * student.cdf(-t);
            let found = two_sided(t, df);
            assert!((found.p - expected).abs() <= 1e-9 * expected, "t {t}, df {df}: {} {expected}", found.p);
            assert_eq!(found.p, two_sided(-t, df).p);
        }
    }
    // df = 2 has a closed form: p = 1 - t / sqrt(2 + t^2), about 1 / t^2 for large t.
    let found = two_sided(1e155, 2.0);
    assert!((found.log10 + 310.0).abs() < 1e-9, "{found:?}");
    // The series takes over below 1e-290 without a step: second differences stay small across the seam.
    let logs: Vec<f64> = (0..80).map(|i| two_sided(55.0 + i as f64 * 0.25, 622.0).log10).collect();
    assert!(logs[0] > -290.0 && logs[79] < -300.0, "{logs:?}");
    assert!(logs.windows(3).all(|w| (w[0] - 2.0 * w[1] + w[2]).abs() < 1e-2), "{logs:?}");
    // mpmath at 50 digits: t = 80, df = 622.
    assert!((two_sided(80.0, 622.0).log10 + 328.855563852051).abs() < 1e-9);
    assert_eq!(two_sided(80.0, 622.0).to_string(), "1.4e-329");
}

#[test]
fn p_values_display_to_two_digits() {
    assert_eq!(two_sided(0.0, 9.0).to_string(), "1.000");
    assert_eq!(two_sided(2.262157, 9.0).to_string(), "0.050");
    assert_eq!(two_sided(54.884, 622.0).to_string(), "1.3e-240");
    assert_eq!(two_sided(f64::INFINITY, 9.0).to_string(), "0");
}

#[test]
fn a_paired_t_test_is_the_textbook_one() {
    let d = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
    // Student's sleep data (Cushny and Peebles 1905): t = 4.0621, df = 9, p = 0.002833.
    let test = PairedT::of(&d).unwrap();
    assert!((test.t - 4.0621).abs() < 5e-5 && test.df == 9.0);
    assert!((test.p.p - 0.002833).abs() < 5e-7, "{}", test.p.p);
    let none = PairedT::of(&[0.0; 5]).unwrap();
    assert_eq!((none.t, none.p.p, none.dz), (0.0, 1.0, 0.0));
    let constant = PairedT::of(&[0.5; 5]).unwrap();
    assert_eq!((constant.t, constant.p.p), (f64::INFINITY, 0.0));
}

#[test]
fn mcnemar_is_the_binomial_tail() {
    let choose = |n: u64, k: u64| (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
    for (b, c) in [(0, 0), (1, 0), (0, 5), (3, 9), (10, 10), (12, 40)] {
        let n = (b + c) as u64;
        let tail: f64 = (0..=b.min(c) as u64).map(|k| choose(n, k)).sum::<f64>() / 2f64.powi(n as i32);
        let test = McNemar::from_counts(b, c);
        assert!((test.p.p - (2.0 * tail).min(1.0)).abs() < 1e-12, "{b}, {c}: {}", test.p.p);
        assert_eq!(test.p, McNemar::from_counts(c, b).p);
    }
    let test = McNemar::of(&[true, true, false, false, true], &[false, true, true, false, false]).unwrap();
    assert_eq!((test.only_first, test.only_second, test.p.p), (2, 1, 1.0));
    let certain = McNemar::from_counts(0, 1190);
    assert_eq!(certain.p.p, 0.0);
    assert!((certain.p.log10 + 1189.0 * 2f64.log10()).abs() < 1e-9);
    assert_eq!(certain.p.to_string(), "1.2e-358");
}

#[test]
fn bootstrap_intervals_cover_and_have_the_width_of_theory() {
    let (mut covered, trials, n) = (0, 200, 60);
    let bootstrap = Bootstrap { resamples: 500, ..Bootstrap::default() };
    for trial in 0..trials {
        let values = widen(normal(&mut rng(trial), n));
        let interval = bootstrap.mean(&values).unwrap();
        assert_eq!(interval.value, Summary::of(&values).unwrap().mean);
        covered += usize::from(interval.low <= 0.0 && 0.0 <= interval.high);
    }
    assert!((180..=197).contains(&covered), "{covered} of {trials} intervals hold the true mean");

    let values = widen(normal(&mut rng(7), 4000));
    let interval = Bootstrap::default().mean(&values).unwrap();
    let theory = 2.0 * 1.96 * Summary::of(&values).unwrap().sd / 4000f64.sqrt();
    assert!(((interval.high - interval.low) / theory - 1.0).abs() < 0.06);
}

#[test]
fn clusters_are_drawn_whole() {
    // Ten equal values a cluster: only the clusters carry information.
    let mut rng = rng(5);
    let means = widen(normal(&mut rng, 30));
    let values: Vec<f64> = means.iter().flat_map(|&m| [m; 10]).collect();
    let labels: Vec<usize> = (0..300).map(|i| 1000 - i / 10).collect();
    let bootstrap = Bootstrap { seed: 3, ..Bootstrap::default() };
    let clustered = bootstrap.clustered_mean(&values, &labels).unwrap();
    let of_means = bootstrap.mean(&means).unwrap();
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(close(clustered.low, of_means.low) && close(clustered.high, of_means.high));
    let free = bootstrap.mean(&values).unwrap();
    assert!((clustered.high - clustered.low) > 2.0 * (free.high - free.low));
    // Clusters of one are no clusters.
    let own: Vec<usize> = (0..300).collect();
    assert_eq!(bootstrap.clustered_mean(&values, &own).unwrap(), free);
    // Where a cluster's values stand does not matter.
    let mut order: Vec<usize> = (0..300).collect();
    order.shuffle(&mut rng);
    let order: Vec<usize> = (0..300).step_by(10).chain(order.into_iter().filter(|i| i % 10 != 0)).collect();
    let values: Vec<f64> = order.iter().map(|&i| values[i]).collect();
    let labels: Vec<usize> = order.iter().map(|&i| labels[i]).collect();
    let moved = bootstrap.clustered_mean(&values, &labels).unwrap();
    assert!(close(moved.low, clustered.low) && close(moved.high, clustered.high));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values = widen(normal(&mut rng(2), 97));
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Bootstrap { seed, ..Bootstrap::default() }.mean(&values).unwrap())
    };
    assert_eq!(run(1, 9), run(2, 9));
    assert_eq!(run(1, 9), run(5, 9));
    assert_ne!(run(1, 9), run(1, 10));
}

#[test]
fn a_change_is_judged_unit_by_unit() {
    let mut rng = rng(4);
    let before: Vec<f64> = (0..120).map(|_| rng.random::<f64>()).collect();
    let after: Vec<f64> = before.iter().map(|b| b + 0.1 + 0.2 * (rng.random::<f64>() - 0.5)).collect();
    let change = Change::between(&before, &after, None, &Bootstrap::default()).unwrap();
    let rose = before.iter().zip(&after).filter(|(b, a)| a > b).count();
    assert_eq!(change.improved, rose);
    assert_eq!(change.share_improved(), rose as f64 / 120.0);
    assert!((change.difference.value - (change.after.value - change.before.value)).abs() < 1e-12);
    // Pairing takes the large spread between units out.
    assert!(change.difference.excludes_zero());
    assert!(change.difference.high - change.difference.low < 0.3 * (change.before.high - change.before.low));
    let clusters: Vec<usize> = (0..120).map(|i| i / 3).collect();
    let clustered = Change::between(&before, &after, Some(&clusters), &Bootstrap::default()).unwrap();
    assert_eq!(clustered.test, change.test);
    assert_ne!(clustered.difference, change.difference);
}

#[test]
fn estimates_display_with_their_interval() {
    let e = Estimate { value: 0.0902, low: -0.0871, high: 0.0936 };
    assert_eq!(e.to_string(), "0.090 [-0.087, 0.094]");
    assert_eq!(format!("{e:+.2}"), "+0.09 [-0.09, +0.09]");
    assert!(!e.excludes_zero());
}

#[test]
fn too_little_or_wrong_data_is_refused() {
    let bootstrap = Bootstrap::default();
    let text = |e: kiungo::retrieval::statistics::StatisticsError| e.to_string();
    let few = text(bootstrap.mean(&[1.0]).unwrap_err());
    assert_eq!(few, "values to resample: at least 2 are needed, found 1");
    let nan = text(bootstrap.mean(&[1.0, f64::NAN]).unwrap_err());
    assert_eq!(nan, "value 1 is NaN: statistics need finite values");
    let one = text(bootstrap.clustered_mean(&[1.0, 2.0], &[4, 4]).unwrap_err());
    assert_eq!(one, "clusters to resample: at least 2 are needed, found 1");
    let labels = text(bootstrap.clustered_mean(&[1.0, 2.0], &[4]).unwrap_err());
    assert_eq!(labels, "cluster labels: expected 2 values, found 1");
    assert_eq!(text(PairedT::of(&[1.0]).unwrap_err()), "pairs of a t-test: at least 2 are needed, found 1");
    assert!(McNemar::of(&[true], &[]).is_err());
}
