use super::axis::Axis;
use super::{Area, Drawn, FAINT, Figure, GREY, GRID, Key, PlotError, Stroke, colour, picture, text_style, text_width};
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Height of the axes and what they hold, in pixels.
const HEIGHT: u32 = 500;
/// More points than this are joined without marks.
const MARKED: usize = 40;

/// Lines over a common x axis.
///
/// Values that are not finite leave a gap. Series of more points than there are pixels keep the extremes of each
/// pixel, so that they look the same.
#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    x_label: String,
    y_label: String,
    series: Vec<Series>,
    include_zero: bool,
}

type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    stroke: Stroke,
}

impl LineChart {
    /// A chart without lines.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> LineChart {
        let (title, x_label, y_label) = (title.into(), x_label.into(), y_label.into());
        LineChart { title, x_label, y_label, series: Vec::new(), include_zero: false }
    }

    /// Adds a line through points of rising x.
    pub fn series(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> LineChart {
        self.with(name.into(), points.into_iter().collect(), Stroke::Solid)
    }

    /// Adds a line behind the others, without a colour of its own: single steps behind their mean.
    pub fn faint(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> LineChart {
        self.with(name.into(), points.into_iter().collect(), Stroke::Faint)
    }

    /// Adds a level to compare with, such as chance.
    pub fn level(self, name: impl Into<String>, y: f64) -> LineChart {
        // It has no x of its own: it spans what the series span.
        self.with(name.into(), vec![(f64::NAN, y)], Stroke::Dashed)
    }

    /// Lets the y axis reach zero, and begin there where no value is below it.
    pub fn include_zero(mut self) -> LineChart {
        self.include_zero = true;
        self
    }

    fn with(mut self, name: String, points: Vec<(f64, f64)>, stroke: Stroke) -> LineChart {
        self.series.push(Series { name, points, stroke });
        self
    }

    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, PlotError> {
        let keys: Vec<Key> =
            self.coloured().map(|(s, colour)| Key { name: &s.name, colour, stroke: s.stroke }).collect();
        let keys = if keys.len() > 1 { keys } else { Vec::new() };
        let svg = picture(&self.title, &keys, HEIGHT, |area| self.draw_on(area))?;
        Ok(Figure { svg, summary: self.summary() })
    }

    /// Each series with its colour: solid lines take them in turn, so that a faint one uses none up.
    fn coloured(&self) -> impl Iterator<Item = (&Series, RGBColor)> {
        self.series.iter().scan(0, |solid, series| {
            let colour = match series.stroke {
                Stroke::Solid => {
                    *solid += 1;
                    colour(*solid - 1)
                }
                Stroke::Faint => FAINT,
                Stroke::Dashed => GREY,
            };
            Some((series, colour))
        })
    }

    fn draw_on(&self, area: &Area) -> Drawn {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let x = Axis::over(points().map(|p| p.0).filter(|x| x.is_finite()), 0.0);
        let zero = self.include_zero.then_some(0.0);
        let y = Axis::over(points().map(|p| p.1).filter(|y| y.is_finite()).chain(zero), 0.06);
        let y = if self.include_zero && !points().any(|p| p.1 < 0.0) { y.cut_at_zero() } else { y };
        let y_labels = y.ticks.iter().map(|&v| text_width(&y.label(v))).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .margin_right(40)
            .margin_bottom(12)
            .margin_left(10)
            .x_label_area_size(74)
            .y_label_area_size(y_labels + 56)
            .build_cartesian_2d(x.clone(), y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(2))
            .axis_style(GREY.stroke_width(2))
            .label_style(text_style(GREY, HPos::Center))
            .axis_desc_style(text_style(GREY, HPos::Center))
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .draw()?;
        // What lies behind is drawn first.
        let mut series: Vec<_> = self.coloured().collect();
        series.sort_by_key(|(s, _)| [Stroke::Faint, Stroke::Dashed, Stroke::Solid].iter().position(|k| *k == s.stroke));
        for (series, colour) in series {
            series.draw(&mut chart, &x, colour)?;
        }
        if !self.series.iter().any(Series::has_data) {
            let (width, height) = area.dim_in_pixel();
            let middle = (width as i32 / 2, height as i32 / 2);
            area.draw(&Text::new("no data", middle, text_style(GREY, HPos::Center)))?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let ends = |series: &Series| {
            let mut finite = series.points.iter().filter(|p| p.1.is_finite());
            let (first, last) = (finite.next(), finite.next_back());
            match (series.stroke, first, last) {
                (_, None, _) => format!("{}: no data", series.name),
                (Stroke::Dashed, Some(p), _) | (_, Some(p), None) => format!("{} {}", series.name, short(p.1)),
                (_, Some(a), Some(b)) => format!("{} from {} to {}", series.name, short(a.1), short(b.1)),
            }
        };
        let series: Vec<String> = self.series.iter().filter(|s| s.stroke != Stroke::Faint).map(ends).collect();
        format!("{} ({} over {}): {}.", self.title, self.y_label, self.x_label, series.join("; "))
    }
}

impl Series {
    fn has_data(&self) -> bool {
        self.stroke != Stroke::Dashed && self.points.iter().any(|p| p.1.is_finite())
    }

    fn draw(&self, chart: &mut Chart, x: &Axis, colour: RGBColor) -> Drawn {
        if self.stroke == Stroke::Dashed {
            let levels = self.points.iter().map(|p| p.1).filter(|y| y.is_finite());
            let line = levels.flat_map(|y| [(x.range.start, y), (x.range.end, y)]);
            chart.draw_series(DashedLineSeries::new(line, 10, 8, colour.stroke_width(3)))?;
            return Ok(());
        }
        let width = if self.stroke == Stroke::Faint { 2 } else { 4 };
        for run in finite_runs(&self.points) {
            // A lone point would be an invisible line.
            let marked = self.stroke == Stroke::Solid && self.points.len() <= MARKED || run.len() == 1;
            let line = LineSeries::new(extremes(run), colour.stroke_width(width).filled());
            chart.draw_series(line.point_size(if marked { 6 } else { 0 }))?;
        }
        Ok(())
    }
}

/// Three or four significant digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.2e}"),
        v if v < 10.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// The stretches of points without a gap.
fn finite_runs(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|p| !(p.0.is_finite() && p.1.is_finite())).filter(|run| !run.is_empty())
}

/// The lowest and the highest point of each pixel column, in their order; all points where there are few.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    const COLUMNS: usize = 800;
    if points.len() <= 2 * COLUMNS {
        return points.to_vec();
    }
    let column = |points: &[(f64, f64)]| {
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = points.iter().min_by(by_y).copied();
        let high = points.iter().max_by(by_y).copied();
        let mut both: Vec<_> = low.into_iter().chain(high).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both
    };
    points.chunks(points.len().div_ceil(COLUMNS)).flat_map(column).collect()
}
