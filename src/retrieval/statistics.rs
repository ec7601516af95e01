//! How sure one can be: bootstrap intervals, the paired t-test, McNemar's exact test.
//!
//! Everything here is deterministic: a resample draws from a generator of its own, made from the seed and the
//! resample's number, so that the number of threads changes nothing.

use rand::{Rng, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use serde::Serialize;
use statrs::function::{beta, factorial::ln_binomial};
use std::collections::HashMap;
use std::f64::consts::{LN_2, LN_10};
use std::fmt::{Display, Formatter};

/// Values that allow no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// Too few values, or clusters of them.
    #[error("{what}: at least {needed} are needed, found {found}")]
    TooFew {
        /// What is counted.
        what: &'static str,
        /// The smallest number that allows the statement.
        needed: usize,
        /// What was found.
        found: usize,
    },
    /// Two lists that belong together differ in length.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Length of the other list.
        expected: usize,
        /// Length of this one.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("value {index} is {value}: statistics need finite values")]
    NotFinite {
        /// 0-based place.
        index: usize,
        /// The value.
        value: f64,
    },
}

/// What the functions here return.
pub type Result<T> = std::result::Result<T, StatisticsError>;

/// Mean and spread of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of values.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample (divisor `n - 1`); 0 for one value.
    pub sd: f64,
}

impl Summary {
    /// Of at least one finite value.
    pub fn of(values: &[f64]) -> Result<Summary> {
        at_least("values", 1, values.len())?;
        all_finite(values)?;
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Ok(Summary { n, mean, sd: if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 } })
    }
}

/// A value with an interval around it. Displays as `0.412 [0.384, 0.440]`, to as many decimals as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The statistic of the sample itself.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// True where the interval leaves zero out.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

impl Display for Estimate {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(3);
        let Estimate { value, low, high } = self;
        if f.sign_plus() {
            write!(f, "{value:+.digits$} [{low:+.digits$}, {high:+.digits$}]")
        } else {
            write!(f, "{value:.digits$} [{low:.digits$}, {high:.digits$}]")
        }
    }
}

/// The percentile bootstrap (Efron 1979): resample with replacement, take the middle of the resampled statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Share of the resampled statistics inside the interval.
    pub level: f64,
    /// Where the resamples come from.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { resamples: 2000, level: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// Interval of a mean over values drawn one by one; at least two.
    pub fn mean(&self, values: &[f64]) -> Result<Estimate> {
        at_least("values to resample", 2, values.len())?;
        all_finite(values)?;
        Ok(self.statistic(values.len(), |drawn| drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64))
    }

    /// Interval of a mean over values drawn a cluster at a time; at least two clusters.
    ///
    /// `clusters[i]` labels the cluster of `values[i]`. For values that are not independent of each other, as
    /// questions about one paragraph are not.
    pub fn clustered_mean(&self, values: &[f64], clusters: &[usize]) -> Result<Estimate> {
        same_length("cluster labels", values.len(), clusters.len())?;
        all_finite(values)?;
        let mut place = HashMap::new();
        let mut totals: Vec<(f64, f64)> = Vec::new();
        for (&value, &label) in values.iter().zip(clusters) {
            let at = *place.entry(label).or_insert(totals.len());
            if at == totals.len() {
                totals.push((0.0, 0.0));
            }
            totals[at].0 += value;
            totals[at].1 += 1.0;
        }
        at_least("clusters to resample", 2, totals.len())?;
        Ok(self.statistic(totals.len(), |drawn| {
            let (sum, count) = drawn.iter().fold((0.0, 0.0), |(s, c), &i| (s + totals[i].0, c + totals[i].1));
            sum / count
        }))
    }

    /// Interval of any statistic of a sample of `n` units, given as their numbers. `n` must not be 0.
    pub fn statistic(&self, n: usize, of: impl Fn(&[usize]) -> f64 + Sync) -> Estimate {
        self.levels(&[n], of).0
    }

    /// The same for units of several kinds that are resampled each on their own, given one kind after the other; with the
    /// standard deviation of the resampled statistics.
    pub(super) fn levels(&self, kinds: &[usize], of: impl Fn(&[usize]) -> f64 + Sync) -> (Estimate, f64) {
        let all: Vec<usize> = kinds.iter().flat_map(|&n| 0..n).collect();
        let limits: Vec<usize> = kinds.iter().flat_map(|&n| std::iter::repeat_n(n, n)).collect();
        let mut resampled: Vec<f64> = (0..self.resamples)
            .into_par_iter()
            .map_init(
                || vec![0; limits.len()],
                |drawn, resample| {
                    let mut rng = self.generator(resample);
                    drawn.iter_mut().zip(&limits).for_each(|(d, &n)| *d = rng.random_range(0..n));
                    of(drawn)
                },
            )
            .collect();
        resampled.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        let (low, high) = (quantile(&resampled, tail), quantile(&resampled, 1.0 - tail));
        let spread = Summary::of(&resampled).map_or(f64::NAN, |s| s.sd);
        (Estimate { value: of(&all), low, high }, spread)
    }

    fn generator(&self, resample: usize) -> StdRng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(resample as u64).to_le_bytes());
        StdRng::from_seed(seed)
    }
}

/// Linear interpolation between the two nearest of sorted values (definition 7 of Hyndman and Fan 1996).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let below = (place as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

/// A probability that may be too small for an f64. Displays as `0.013` or `1.3e-240`, never as 0 by underflow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PValue {
    /// The probability; 0 where it is below 1e-308.
    pub p: f64,
    /// Its decimal logarithm, which never underflows; minus infinity for an impossible event.
    pub log10: f64,
}

impl PValue {
    fn from_ln(ln: f64) -> PValue {
        let ln = ln.min(0.0);
        PValue { p: ln.exp(), log10: ln / LN_10 }
    }
}

impl Display for PValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.p >= 1e-3 {
            return write!(f, "{:.3}", self.p);
        }
        if self.log10 == f64::NEG_INFINITY {
            return write!(f, "0");
        }
        let mut exponent = self.log10.floor();
        let mut mantissa = 10f64.powf(self.log10 - exponent);
        if mantissa >= 9.95 {
            (mantissa, exponent) = (1.0, exponent + 1.0);
        }
        write!(f, "{mantissa:.1}e{exponent}")
    }
}

/// The paired t-test, two-sided (Student 1908).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedT {
    /// Mean of the differences over their standard error.
    pub t: f64,
    /// Degrees of freedom, `n - 1`.
    pub df: f64,
    /// Probability of a `|t|` at least this large without an effect.
    pub p: PValue,
    /// Cohen's d_z: mean of the differences over their standard deviation.
    pub dz: f64,
}

impl PairedT {
    /// Of differences; at least two.
    pub fn of(differences: &[f64]) -> Result<PairedT> {
        at_least("pairs of a t-test", 2, differences.len())?;
        Ok(PairedT::from_summary(&Summary::of(differences)?))
    }

    /// Of what is known about the differences; `n` at least 2.
    ///
    /// Differences that are all zero give `t = 0`, `p = 1`: nothing has changed. Differences that are all equal
    /// otherwise give an infinite `t`.
    pub fn from_summary(differences: &Summary) -> PairedT {
        let Summary { n, mean, sd } = *differences;
        let df = n as f64 - 1.0;
        let dz = if mean == 0.0 { 0.0 } else { mean / sd };
        let t = dz * (n as f64).sqrt();
        PairedT { t, df, p: two_sided(t, df), dz }
    }
}

/// Probability of a `|t|` at least this large under Student's distribution: `I_x(df/2, 1/2)`, `x = df / (df + t^2)`.
pub fn two_sided(t: f64, df: f64) -> PValue {
    let (a, b, x) = (df / 2.0, 0.5, df / (df + t * t));
    let p = beta::beta_reg(a, b, x);
    if p > 1e-290 || t.is_infinite() {
        return PValue { p, log10: p.log10() };
    }
    // The hypergeometric series of the incomplete beta function (DLMF 8.17.8), all of whose terms are positive;
    // its factor alone can underflow.
    let (mut sum, mut term, mut n) = (1.0, 1.0, 0.0);
    while term > sum * f64::EPSILON {
        term *= x * (a + b + n) / (a + 1.0 + n);
        sum += term;
        n += 1.0;
    }
    let ln_x = -2.0 * 1f64.hypot(t / df.sqrt()).ln();
    PValue::from_ln(a * ln_x + b * (1.0 - x).ln() - a.ln() - beta::ln_beta(a, b) + sum.ln())
}

/// McNemar's exact test of two yes-or-no outcomes of the same units, two-sided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct McNemar {
    /// Units that only the first got right.
    pub only_first: usize,
    /// Units that only the second got right.
    pub only_second: usize,
    /// Probability of a split at least this uneven, were both equally good.
    pub p: PValue,
}

impl McNemar {
    /// Of outcomes in the same order.
    pub fn of(first: &[bool], second: &[bool]) -> Result<McNemar> {
        same_length("outcomes of the second", first.len(), second.len())?;
        let count = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|&(&a, &b)| a && !b).count();
        Ok(McNemar::from_counts(count(first, second), count(second, first)))
    }

    /// Of the numbers of units that only one got right: twice the binomial tail `P(X <= min)`, `X ~ B(n, 1/2)`.
    pub fn from_counts(only_first: usize, only_second: usize) -> McNemar {
        let n = (only_first + only_second) as u64;
        let fewer = only_first.min(only_second) as u64;
        // Largest term first, and all terms relative to it, so that nothing underflows.
        let largest = ln_binomial(n, fewer);
        let tail: f64 = (0..=fewer).rev().map(|k| (ln_binomial(n, k) - largest).exp()).sum();
        McNemar { only_first, only_second, p: PValue::from_ln(largest + tail.ln() + LN_2 - n as f64 * LN_2) }
    }
}

/// Two measurements of the same units, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Mean before.
    pub before: Estimate,
    /// Mean after.
    pub after: Estimate,
    /// Mean of after less before, unit by unit.
    pub difference: Estimate,
    /// Spread of after less before.
    pub spread: Summary,
    /// Test of the difference. It takes units for independent of each other, whatever the clusters.
    pub test: PairedT,
    /// Units whose value rose.
    pub improved: usize,
}

impl Change {
    /// From values in the same order. With `clusters`, one label a unit, intervals come from whole clusters.
    pub fn between(before: &[f64], after: &[f64], clusters: Option<&[usize]>, bootstrap: &Bootstrap) -> Result<Change> {
        same_length("values after", before.len(), after.len())?;
        let differences: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let interval = |values: &[f64]| match clusters {
            Some(clusters) => bootstrap.clustered_mean(values, clusters),
            None => bootstrap.mean(values),
        };
        Ok(Change {
            before: interval(before)?,
            after: interval(after)?,
            difference: interval(&differences)?,
            spread: Summary::of(&differences)?,
            test: PairedT::of(&differences)?,
            improved: differences.iter().filter(|&&d| d > 0.0).count(),
        })
    }

    /// Share of the units whose value rose.
    pub fn share_improved(&self) -> f64 {
        self.improved as f64 / self.spread.n as f64
    }
}

fn at_least(what: &'static str, needed: usize, found: usize) -> Result<()> {
    if found < needed { Err(StatisticsError::TooFew { what, needed, found }) } else { Ok(()) }
}

fn same_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if found != expected { Err(StatisticsError::Length { what, expected, found }) } else { Ok(()) }
}

fn all_finite(values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(StatisticsError::NotFinite { index, value: values[index] }),
        None => Ok(()),
    }
}
