use super::line::short;
use super::{Area, Drawn, Figure, GREY, INK, PlotError, WIDTH, picture, shorten, text_style, text_width};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Heights of a row and of the column labels, in pixels.
const ROW: i32 = 44;
const HEAD: i32 = 44;
/// Row labels take at most this much, and a cell at most that.
const WIDEST_LABEL: i32 = 260;
const WIDEST_CELL: i32 = 120;
/// The ends of the scale: below zero, and above.
const BELOW: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const ABOVE: RGBColor = RGBColor(0x00, 0x5a, 0x96);
const MISSING: RGBColor = RGBColor(0xee, 0xf0, 0xf2);

/// A matrix of values as coloured cells with their numbers: question languages by passage languages, or arms by languages.
///
/// Values are shares, shown as percentages. White is zero, blue above and orange below it, at the same distance to either
/// side.
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Option<f64>>)>,
    signed: bool,
}

impl HeatMap {
    /// A map without rows. The title says what rows and columns are.
    pub fn new<S: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = S>) -> HeatMap {
        let columns = columns.into_iter().map(Into::into).collect();
        HeatMap { title: title.into(), columns, rows: Vec::new(), signed: false }
    }

    /// Adds a row below the others. A value may be missing.
    pub fn row(mut self, label: impl Into<String>, values: impl IntoIterator<Item = Option<f64>>) -> HeatMap {
        self.rows.push((label.into(), values.into_iter().take(self.columns.len()).collect()));
        self
    }

    /// Shows values with their sign: they are differences.
    pub fn signed(mut self) -> HeatMap {
        self.signed = true;
        self
    }

    /// Draws the map.
    pub fn draw(&self) -> Result<Figure, PlotError> {
        let height = HEAD + ROW * self.rows.len() as i32 + ROW / 2;
        let svg = picture(&format!("{} (%)", self.title), &[], height as u32, |area| self.draw_on(area))?;
        Ok(Figure { svg, summary: self.summary() })
    }

    fn draw_on(&self, area: &Area) -> Drawn {
        let labels = self.rows.iter().map(|(label, _)| text_width(label)).max().unwrap_or(0).min(WIDEST_LABEL);
        let left = labels + 24;
        let cell = ((WIDTH as i32 - left - 8) / self.columns.len().max(1) as i32).min(WIDEST_CELL);
        for (c, column) in self.columns.iter().enumerate() {
            let at = (left + c as i32 * cell + cell / 2, HEAD / 2);
            area.draw(&Text::new(shorten(column, cell), at, text_style(GREY, HPos::Center)))?;
        }
        let largest = self.values().map(f64::abs).fold(0.0, f64::max);
        for (r, (label, values)) in self.rows.iter().enumerate() {
            let top = HEAD + r as i32 * ROW;
            let at = (left - 12, top + ROW / 2);
            area.draw(&Text::new(shorten(label, WIDEST_LABEL), at, text_style(INK, HPos::Right)))?;
            for (c, value) in values.iter().enumerate() {
                let from = (left + c as i32 * cell, top);
                let value = value.filter(|v| v.is_finite());
                let share = value.map_or(0.0, |v| if largest > 0.0 { v / largest } else { 0.0 });
                let colour = if value.is_some() { shade(share) } else { MISSING };
                area.draw(&Rectangle::new([from, (from.0 + cell - 2, top + ROW - 2)], colour.filled()))?;
                if let Some(value) = value {
                    let ink = if share.abs() > 0.6 { WHITE } else { INK };
                    let at = (from.0 + cell / 2, top + ROW / 2);
                    area.draw(&Text::new(self.number(value), at, text_style(ink, HPos::Center)))?;
                }
            }
        }
        Ok(())
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().flat_map(|(_, values)| values).flatten().copied().filter(|v| v.is_finite())
    }

    fn number(&self, value: f64) -> String {
        let percent = format!("{:.1}", 100.0 * value.abs());
        match (&*percent, value < 0.0, self.signed) {
            ("0.0", ..) => "0".into(),
            (_, true, _) => format!("−{percent}"),
            (_, false, true) => format!("+{percent}"),
            (_, false, false) => percent,
        }
    }

    fn summary(&self) -> String {
        let row = |(label, values): &(String, Vec<Option<f64>>)| {
            let cell = |(column, value): (&String, &Option<f64>)| Some(format!("{column} {}", short((*value)?)));
            let cells: Vec<String> = self.columns.iter().zip(values).filter_map(cell).collect();
            format!("{label}: {}", cells.join(", "))
        };
        format!("{}. {}.", self.title, self.rows.iter().map(row).collect::<Vec<_>>().join("; "))
    }
}

/// White for 0, the ends of the scale for -1 and 1.
fn shade(share: f64) -> RGBColor {
    let end = if share < 0.0 { BELOW } else { ABOVE };
    let mix = |end: u8| (255.0 + (f64::from(end) - 255.0) * share.abs().min(1.0)).round() as u8;
    RGBColor(mix(end.0), mix(end.1), mix(end.2))
}
