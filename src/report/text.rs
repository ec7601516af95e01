//! Reports as plain text.

use super::Report;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// Columns of a line of text.
pub(super) const WIDTH: usize = 100;

pub(super) fn page(report: &Report) -> String {
    let mut page = heading(&report.title, '═');
    page += &paragraph(&report.verdict);
    for warning in &report.warnings {
        page += &paragraph(&format!("Warning: {warning}"));
    }
    for section in &report.sections {
        page += &heading(&section.heading, '─');
        section.paragraphs().for_each(|p| page += &paragraph(p));
        // Writing into a String cannot fail.
        section.tables.iter().for_each(|table| _ = writeln!(page, "{table}"));
        section.figures.iter().for_each(|figure| page += &paragraph(&figure.summary));
    }
    page.trim_end().to_string() + "\n"
}

fn heading(text: &str, rule: char) -> String {
    format!("{text}\n{}\n\n", rule.to_string().repeat(text.width()))
}

fn paragraph(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => wrap(text, WIDTH).join("\n") + "\n\n",
    }
}

/// Lines of at most `width` columns, broken between words; a longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
