//! Charts as SVG: lines over steps, epochs or layers, histograms, heat maps, and values with their intervals.
//!
//! Charts are drawn at twice the size that pages show them, since plotters rounds coordinates to whole pixels.

mod axis;
mod heat;
mod histogram;
mod interval;
mod line;

pub use heat::HeatMap;
pub use histogram::Histogram;
pub use interval::IntervalChart;
pub use line::LineChart;

use super::text::wrap;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use unicode_width::UnicodeWidthStr;

/// A chart, drawn.
#[derive(Clone, Debug)]
pub struct Figure {
    /// An SVG document.
    pub svg: String,
    /// What it shows, in a sentence: for text reports, and for readers who cannot see it.
    pub summary: String,
}

/// A chart could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("chart {title:?}: {message}")]
pub struct PlotError {
    /// The chart's title.
    pub title: String,
    /// The backend's own words.
    pub message: String,
}

/// What drawing on an area returns.
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
/// A part of the picture.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 960;
const LINE_HEIGHT: i32 = 34;
const MARGIN: i32 = 4;
/// Text sizes in pixels.
const TITLE: f64 = 29.0;
const TEXT: f64 = 24.0;
const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const GREY: RGBColor = RGBColor(0x52, 0x60, 0x6d);
const GRID: RGBColor = RGBColor(0xe1, 0xe5, 0xea);
const FAINT: RGBColor = RGBColor(0xb8, 0xc4, 0xd0);

/// Colours that stay apart for the colour-blind (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// How a line looks, in the chart and in its legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stroke {
    /// A series.
    Solid,
    /// A noisy series behind another.
    Faint,
    /// A level to compare with.
    Dashed,
}

/// A line of the legend.
struct Key<'a> {
    name: &'a str,
    colour: RGBColor,
    stroke: Stroke,
}

/// Draws a picture of the given height below a title and a legend.
fn picture(
    title: &str,
    keys: &[Key],
    body_height: u32,
    draw: impl FnOnce(&Area) -> Drawn,
) -> Result<String, PlotError> {
    let titles = wrap(title, (f64::from(WIDTH) / (0.63 * TITLE)) as usize);
    let (places, key_rows) = lay_out(keys);
    let header = MARGIN + LINE_HEIGHT * (titles.len() as i32 + key_rows) + 10;
    let mut svg = String::new();
    let drawn = || -> Drawn {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, header as u32 + body_height)).into_drawing_area();
        for (i, line) in titles.iter().enumerate() {
            let style = ("sans-serif", 1.24 * TITLE, FontStyle::Bold).into_font().color(&INK);
            root.draw(&Text::new(line.clone(), (MARGIN, MARGIN + i as i32 * LINE_HEIGHT), style))?;
        }
        let top = MARGIN + titles.len() as i32 * LINE_HEIGHT + LINE_HEIGHT / 2;
        for (key, (x, row)) in keys.iter().zip(places) {
            draw_key(&root, key, x, top + row * LINE_HEIGHT)?;
        }
        let (_, body) = root.split_vertically(header);
        draw(&body)?;
        root.present()
    };
    drawn().map_err(|e| PlotError { title: title.into(), message: e.to_string() })?;
    Ok(svg)
}

/// Length of the piece of line beside a name in the legend.
const SWATCH: i32 = 40;

/// Left end and row of each key, and the number of rows.
fn lay_out(keys: &[Key]) -> (Vec<(i32, i32)>, i32) {
    let (mut x, mut row) = (MARGIN, 0);
    let place = |key: &Key| {
        let width = SWATCH + 12 + text_width(key.name) + 30;
        if x > MARGIN && x + width > WIDTH as i32 {
            (x, row) = (MARGIN, row + 1);
        }
        x += width;
        (x - width, row)
    };
    let places: Vec<_> = keys.iter().map(place).collect();
    (places, if keys.is_empty() { 0 } else { row + 1 })
}

fn draw_key(root: &Area, key: &Key, x: i32, y: i32) -> Drawn {
    let style = key.colour.stroke_width(4);
    let ends = [(x, y), (x + SWATCH, y)];
    match key.stroke {
        Stroke::Solid => {
            root.draw(&PathElement::new(ends, style))?;
            root.draw(&Circle::new((x + SWATCH / 2, y), 6, key.colour.filled()))?;
        }
        Stroke::Faint => root.draw(&PathElement::new(ends, style))?,
        Stroke::Dashed => root.draw(&DashedPathElement::new(ends, 10, 8, style))?,
    }
    root.draw(&Text::new(key.name.to_string(), (x + SWATCH + 12, y), text_style(INK, HPos::Left)))
}

fn text_style(colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", 1.24 * TEXT).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}

/// Width of a text in pixels, about: an SVG's fonts are the reader's.
fn text_width(text: &str) -> i32 {
    (0.58 * TEXT * text.width() as f64).ceil() as i32
}

/// A text of at most `width` pixels, about.
fn shorten(text: &str, width: i32) -> String {
    if text_width(text) <= width {
        return text.into();
    }
    let mut short = String::new();
    for c in text.chars() {
        if text_width(&short) + text_width("……") > width {
            return short + "…";
        }
        short.push(c);
    }
    short
}
