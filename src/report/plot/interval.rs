use super::axis::Axis;
use super::line::short;
use super::{
    Area, Drawn, Figure, GREY, GRID, Key, PlotError, Stroke, colour, picture, shorten, text_style, text_width,
};
use crate::retrieval::statistics::Estimate;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Height of one estimate, and of the space between rows, in pixels.
const ESTIMATE: u32 = 34;
const GAP: u32 = 26;
/// The axis below, in pixels.
const AXIS: u32 = 92;
/// Row labels take at most this much.
const WIDEST_LABEL: i32 = 360;

/// Values with their intervals, a row for each thing measured and a colour for each way of measuring: languages by
/// training methods, say.
#[derive(Clone, Debug)]
pub struct IntervalChart {
    title: String,
    x_label: String,
    series: Vec<String>,
    rows: Vec<(String, Vec<Option<Estimate>>)>,
    level: Option<(String, f64)>,
}

impl IntervalChart {
    /// A chart without rows; `series` names the estimates of each row, in order.
    pub fn new<S: Into<String>>(
        title: impl Into<String>,
        x_label: impl Into<String>,
        series: impl IntoIterator<Item = S>,
    ) -> IntervalChart {
        let series = series.into_iter().map(Into::into).collect();
        IntervalChart { title: title.into(), x_label: x_label.into(), series, rows: Vec::new(), level: None }
    }

    /// Adds a row below the others. An estimate may be missing.
    pub fn row(mut self, label: impl Into<String>, estimates: impl IntoIterator<Item = Option<Estimate>>) -> Self {
        self.rows.push((label.into(), estimates.into_iter().take(self.series.len()).collect()));
        self
    }

    /// Marks a value to compare with, such as chance or zero.
    pub fn level(mut self, name: impl Into<String>, x: f64) -> Self {
        self.level = Some((name.into(), x));
        self
    }

    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, PlotError> {
        let solid = |(i, name)| Key { name, colour: colour(i), stroke: Stroke::Solid };
        let dashed = |(name, _): &'_ (String, f64)| (name.clone(), GREY);
        let level = self.level.as_ref().map(dashed);
        let mut keys: Vec<Key> = self.series.iter().map(String::as_str).enumerate().map(solid).collect();
        keys.extend(level.as_ref().map(|(name, colour)| Key { name, colour: *colour, stroke: Stroke::Dashed }));
        let keys = if keys.len() > 1 { keys } else { Vec::new() };
        let svg = picture(&self.title, &keys, self.row_height() * self.rows.len() as u32 + AXIS, |a| self.draw_on(a))?;
        Ok(Figure { svg, summary: self.summary() })
    }

    fn row_height(&self) -> u32 {
        ESTIMATE * self.series.len() as u32 + GAP
    }

    /// Every estimate with its row and series.
    fn estimates(&self) -> impl Iterator<Item = (usize, usize, &Estimate)> + Clone {
        let row = |(row, (_, estimates)): (usize, &'_ (String, Vec<Option<Estimate>>))| (row, estimates.len());
        let places = self.rows.iter().enumerate().map(row).flat_map(|(row, n)| (0..n).map(move |series| (row, series)));
        places.filter_map(|(row, series)| Some((row, series, self.rows[row].1[series].as_ref()?)))
    }

    fn draw_on(&self, area: &Area) -> Drawn {
        let level = self.level.as_ref().map(|l| l.1);
        let ends = self.estimates().flat_map(|(_, _, e)| [e.low, e.value, e.high]).chain(level);
        let x = Axis::over(ends.filter(|v| v.is_finite()), 0.05);
        let label_width = self.rows.iter().map(|(label, _)| text_width(label)).max().unwrap_or(0).min(WIDEST_LABEL);
        let left = label_width + 40;
        let height = (self.row_height() * self.rows.len() as u32) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin_right(40)
            .margin_bottom(12)
            .x_label_area_size(AXIS - 12)
            .y_label_area_size(left)
            // From the top down, in pixels.
            .build_cartesian_2d(x.clone(), -height.max(1.0)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(2))
            .axis_style(GREY.stroke_width(2))
            .label_style(text_style(GREY, HPos::Center))
            .axis_desc_style(text_style(GREY, HPos::Center))
            .x_desc(&self.x_label)
            .draw()?;
        if let Some(level) = level.filter(|l| l.is_finite()) {
            let line = [(level, 0.0), (level, -height)];
            chart.draw_series(DashedLineSeries::new(line, 10, 8, GREY.stroke_width(3)))?;
        }
        for (row, (label, _)) in self.rows.iter().enumerate() {
            let top = -f64::from(row as u32 * self.row_height());
            if row > 0 {
                let line = [(x.range.start, top), (x.range.end, top)];
                chart.draw_series([PathElement::new(line, GRID.stroke_width(2))])?;
            }
            let middle = (row as u32 * self.row_height() + self.row_height() / 2) as i32;
            let at = (left - 16, middle);
            area.draw(&Text::new(shorten(label, WIDEST_LABEL), at, text_style(super::INK, HPos::Right)))?;
        }
        for (row, series, e) in
            self.estimates().filter(|(_, _, e)| [e.low, e.value, e.high].iter().all(|v| v.is_finite()))
        {
            let from_top = row as u32 * self.row_height() + GAP / 2 + series as u32 * ESTIMATE + ESTIMATE / 2;
            let y = -f64::from(from_top);
            let style = colour(series).stroke_width(4);
            let cap = |x: f64| PathElement::new([(x, y - 8.0), (x, y + 8.0)], style);
            chart.draw_series([PathElement::new([(e.low, y), (e.high, y)], style), cap(e.low), cap(e.high)])?;
            chart.draw_series([Circle::new((e.value, y), 8, colour(series).filled())])?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let one = |(row, series, e): (usize, usize, &Estimate)| {
            let (label, name) = (&self.rows[row].0, &self.series[series]);
            format!("{label}, {name}: {} [{}, {}]", short(e.value), short(e.low), short(e.high))
        };
        let all: Vec<String> = self.estimates().map(one).collect();
        format!("{} ({}): {}.", self.title, self.x_label, all.join("; "))
    }
}
