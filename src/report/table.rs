//! Tables of text, with columns of numbers aligned right.

use std::fmt::{Display, Formatter};
use unicode_width::UnicodeWidthStr;

/// A table. Displays as aligned plain text, and [`Report::to_html`](super::Report::to_html) makes a page's table of
/// it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What the table shows; empty for none.
    pub caption: String,
    /// Names of the columns; empty for none.
    pub header: Vec<String>,
    /// The cells. A row may be shorter than others: the rest stays empty.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Table {
        Table { header: header.into_iter().map(Into::into).collect(), ..Table::default() }
    }

    /// Sets the caption.
    pub fn caption(mut self, caption: impl Into<String>) -> Table {
        self.caption = caption.into();
        self
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Table {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// Header and rows.
    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).filter(|h| !h.is_empty()).chain(&self.rows)
    }

    /// Number of columns of the widest row.
    pub(super) fn columns(&self) -> usize {
        self.lines().map(Vec::len).max().unwrap_or(0)
    }

    /// Letters of a column's widest cell.
    pub(super) fn width(&self, column: usize) -> usize {
        self.lines().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
    }

    /// True for a column of numbers and missing values.
    pub(super) fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.trim()).filter(|c| !is_missing(c));
        cells.clone().next().is_some() && cells.all(is_number)
    }
}

fn is_missing(cell: &str) -> bool {
    matches!(cell, "" | "-" | "–" | "n/a" | "NaN")
}

/// A number, with a sign, a unit or an interval if it likes: `-0.3`, `1.5 GB`, `0.41 [0.38, 0.44]`, `1.3e-240`.
fn is_number(cell: &str) -> bool {
    let unsigned = cell.trim_start_matches(['+', '-', '−', '±', '<', '>', '~', '≈', '[', '(', ' ']);
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.chars().filter(|c| c.is_alphabetic()).count() <= 4
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns()).map(|column| self.width(column)).collect();
        if !self.caption.is_empty() {
            writeln!(f, "{}", self.caption)?;
        }
        for (i, row) in self.lines().enumerate() {
            let mut line = String::new();
            for (column, width) in widths.iter().enumerate() {
                let text = cell(row, column);
                let space = " ".repeat(width - text.width());
                let (left, right) = if self.is_numeric(column) { (&*space, "") } else { ("", &*space) };
                line += &format!("{}{left}{text}{right}", if column > 0 { "  " } else { "" });
            }
            writeln!(f, "{}", line.trim_end())?;
            if i == 0 && !self.header.is_empty() {
                let rules: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
                writeln!(f, "{}", rules.join("  "))?;
            }
        }
        Ok(())
    }
}
