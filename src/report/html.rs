//! Reports as one HTML file.

use super::{Figure, Report, Section, Table};

/// Tables of more rows are folded.
const LONG: usize = 30;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let sections: String = report.sections.iter().map(section).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         {verdict}{warnings}{sections}<footer>kiungo {version}</footer>\n</main>\n</body>\n</html>\n",
        verdict = element("p class=\"verdict\"", &report.verdict),
        warnings = warnings(&report.warnings),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let items: String = warnings.iter().map(|w| element("li", w)).collect();
    format!("<section class=\"warnings\">\n<h2>Warnings</h2>\n<ul>\n{items}</ul>\n</section>\n")
}

fn section(section: &Section) -> String {
    let heading = element("h2", &section.heading);
    let text: String = section.paragraphs().map(|p| element("p", p)).collect();
    let tables: String = section.tables.iter().map(table).collect();
    let figures: String = section.figures.iter().map(figure).collect();
    let figures = if figures.is_empty() { figures } else { format!("<div class=\"figures\">\n{figures}</div>\n") };
    format!("<section>\n{heading}{text}{tables}{figures}</section>\n")
}

/// A column of at most so many letters is not broken in lines.
const SHORT: usize = 20;

fn table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cell = |column: usize| {
            let class = match table.is_numeric(column) {
                true => " class=\"number\"",
                false if table.width(column) <= SHORT => " class=\"name\"",
                false => "",
            };
            let text = cells.get(column).map(|c| escape(c)).unwrap_or_default();
            format!("<{tag}{class}>{text}</{tag}>")
        };
        format!("<tr>{}</tr>\n", (0..table.columns()).map(cell).collect::<String>())
    };
    let caption = element("caption", &table.caption);
    let head = match table.header.is_empty() {
        true => String::new(),
        false => format!("<thead>\n{}</thead>\n", row(&table.header, "th")),
    };
    let body: String = table.rows.iter().map(|r| row(r, "td")).collect();
    let table_of = |caption: &str| {
        format!("<div class=\"scroll\"><table>\n{caption}{head}<tbody>\n{body}</tbody>\n</table></div>\n")
    };
    if table.rows.len() <= LONG {
        return table_of(&caption);
    }
    let name = if table.caption.is_empty() { "The figures" } else { &table.caption };
    let summary = element("summary", &format!("{name} ({} rows)", table.rows.len()));
    format!("<details>\n{summary}{}</details>\n", table_of(""))
}

fn figure(figure: &Figure) -> String {
    format!("<figure role=\"img\" aria-label=\"{}\">\n{}</figure>\n", escape(&figure.summary), figure.svg)
}

/// An element around escaped text; nothing for no text.
fn element(tag: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let name = tag.split(' ').next().unwrap_or(tag);
    format!("<{tag}>{}</{name}>\n", escape(text))
}

/// Text that is safe between tags and in attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other => safe.push(other),
        }
    }
    safe
}
