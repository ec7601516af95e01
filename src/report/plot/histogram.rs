use super::line::short;
use super::{Figure, LineChart, PlotError};

/// Bins over the range of all series: more corners than a line has marks for.
const BINS: usize = 30;

/// How often values fall where, as outlines over common bins: cosines before and after training, say.
#[derive(Clone, Debug)]
pub struct Histogram {
    title: String,
    x_label: String,
    series: Vec<(String, Vec<f64>)>,
}

impl Histogram {
    /// A histogram without series.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>) -> Histogram {
        Histogram { title: title.into(), x_label: x_label.into(), series: Vec::new() }
    }

    /// Adds values; those that are not finite are left out.
    pub fn series(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Histogram {
        self.series.push((name.into(), values.into_iter().filter(|v| v.is_finite()).collect()));
        self
    }

    /// Draws the histogram.
    pub fn draw(&self) -> Result<Figure, PlotError> {
        let all = || self.series.iter().flat_map(|(_, values)| values).copied();
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low < high { (low, high) } else { (low - 0.5, low + 0.5) };
        let mut chart = LineChart::new(&self.title, &self.x_label, "share of the values").include_zero();
        for (name, values) in &self.series {
            chart = chart.series(name, outline(values, low, high));
        }
        Ok(Figure { summary: self.summary(), ..chart.draw()? })
    }

    fn summary(&self) -> String {
        let mean = |(name, values): &(String, Vec<f64>)| match values.len() {
            0 => format!("{name}: no data"),
            n => format!("{name} {}", short(values.iter().sum::<f64>() / n as f64)),
        };
        let means: Vec<String> = self.series.iter().map(mean).collect();
        format!("{} ({}), means: {}.", self.title, self.x_label, means.join("; "))
    }
}

/// The corners of the bins' tops, from zero to zero.
fn outline(values: &[f64], low: f64, high: f64) -> Vec<(f64, f64)> {
    if values.is_empty() {
        return vec![];
    }
    let width = (high - low) / BINS as f64;
    let mut shares = [0.0; BINS];
    let bin = |value: f64| (((value - low) / width) as usize).min(BINS - 1);
    values.iter().for_each(|&value| shares[bin(value)] += 1.0 / values.len() as f64);
    let edge = |i: usize| low + i as f64 * width;
    let tops = shares.iter().enumerate().flat_map(|(i, &share)| [(edge(i), share), (edge(i + 1), share)]);
    std::iter::once((low, 0.0)).chain(tops).chain([(high, 0.0)]).collect()
}
