//! What a command found, as a page to look at and as text for a terminal.
//!
//! A command fills a [`Report`]; [`Report::to_html`] makes one file of it that needs nothing else, and
//! [`Report::to_text`] the same without the pictures. Both depend on their content alone: no clock, no machine name.

pub mod csv;
mod html;
pub mod plot;
mod table;
mod text;

pub use plot::Figure;
pub use table::Table;

/// A whole report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was done, in a few words.
    pub title: String,
    /// What came out, in a sentence or two.
    pub verdict: String,
    /// What a reader must know before believing it, a sentence each.
    pub warnings: Vec<String>,
    /// The rest, in order.
    pub sections: Vec<Section>,
}

/// A part of a report: text, then tables, then figures.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// Plain text; an empty line parts paragraphs.
    pub text: String,
    /// Tables, in order.
    pub tables: Vec<Table>,
    /// Figures, in order.
    pub figures: Vec<Figure>,
}

impl Report {
    /// A report without warnings or sections.
    pub fn new(title: impl Into<String>, verdict: impl Into<String>) -> Report {
        Report { title: title.into(), verdict: verdict.into(), ..Report::default() }
    }

    /// One HTML file with its style and figures inside.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Plain text, in lines of at most 100 columns but for wide tables. Figures appear as their summaries.
    pub fn to_text(&self) -> String {
        text::page(self)
    }
}

impl Section {
    /// A section without content.
    pub fn new(heading: impl Into<String>) -> Section {
        Section { heading: heading.into(), ..Section::default() }
    }

    /// Sets the text.
    pub fn text(mut self, text: impl Into<String>) -> Section {
        self.text = text.into();
        self
    }

    /// Adds a table.
    pub fn table(mut self, table: Table) -> Section {
        self.tables.push(table);
        self
    }

    /// Adds a figure.
    pub fn figure(mut self, figure: Figure) -> Section {
        self.figures.push(figure);
        self
    }

    /// The paragraphs of the text.
    fn paragraphs(&self) -> impl Iterator<Item = &str> {
        self.text.split("\n\n").map(str::trim).filter(|p| !p.is_empty())
    }
}
