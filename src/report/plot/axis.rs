//! Ranges and ticks.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// Most ticks on an axis.
const TICKS: f64 = 7.0;

/// One dimension of a chart.
#[derive(Clone)]
pub(super) struct Axis {
    /// From the left or bottom end to the right or top end.
    pub range: Range<f64>,
    /// Round values inside the range, equally far apart.
    pub ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Holds all `values`, which must be finite, with a margin of a share of their span.
    pub fn over(values: impl Iterator<Item = f64> + Clone, margin: f64) -> Axis {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // A span that is rounding noise would show the noise as if it were a trend.
        let size = low.abs().max(high.abs());
        let range = match high - low {
            span if span > 1e-6 * size => low - margin * span..high + margin * span,
            _ if size == 0.0 => 0.0..1.0,
            _ => low - 0.1 * size..high + 0.1 * size,
        };
        // Steps, epochs and layers are whole: no tick between two of them.
        let finest = if margin == 0.0 && values.clone().all(|v| v.fract() == 0.0) { 1.0 } else { 0.0 };
        Axis::new(range, finest)
    }

    /// The same ticks from zero on.
    pub fn cut_at_zero(self) -> Axis {
        Axis::new(0.0..self.range.end, 0.0)
    }

    fn new(range: Range<f64>, finest: f64) -> Axis {
        let step = round_up((range.end - range.start) / TICKS).max(finest).max(f64::MIN_POSITIVE);
        let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
        Axis { range, ticks: (first..=last).map(|i| i as f64 * step).collect(), step }
    }

    /// The label of a tick, with as many decimals as tell it from the next.
    pub fn label(&self, value: f64) -> String {
        let largest = self.range.start.abs().max(self.range.end.abs());
        // The label of zero has no sign, whatever rounding has left.
        match value {
            v if v.abs() < 0.5 * self.step => "0".into(),
            v if !(1e-3..1e6).contains(&largest) => {
                let digits = (v.abs().log10().floor() - self.step.log10().floor()).max(0.0) as usize;
                format!("{v:.digits$e}")
            }
            v => format!("{v:.*}", (-self.step.log10() - 1e-9).ceil().max(0.0) as usize),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        start + (share * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * power);
    steps.into_iter().find(|&s| s >= value * (1.0 - 1e-9)).unwrap_or(value)
}
