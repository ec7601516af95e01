//! Word or sentence pairs: tab-separated, comma-separated, or JSON lines.

mod split;

pub use split::{Split, SplitError, split};

use super::text::{self, Orthography, TextError, normalise};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A word or sentence and its translation, in NFC, without blanks around.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// In the language of few data.
    pub source: String,
    /// In the other, usually English.
    pub target: String,
}

/// What a file of pairs held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Each once, in the order of the file.
    pub pairs: Vec<Pair>,
    /// Names of the two columns, where the file has them.
    pub columns: Option<[String; 2]>,
    /// Rows left out because the same pair came before.
    pub duplicates: usize,
    /// Letters with a cedilla that became Romanian letters with a comma below.
    pub respelled: usize,
}

/// Why a file of pairs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairsError {
    /// The file cannot be read as text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The file's name does not say what it is.
    #[error("{}: unknown kind of file; expected .tsv, .csv or .jsonl", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// A line is not as it should be.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// There is no pair in it.
    #[error("{}: no pairs; expected two columns, or JSON lines with source and target", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// One row: its line in the file, and its two sides.
struct Row {
    line: u64,
    sides: [String; 2],
}

/// Reads pairs; the kind of file is known by its extension: `.tsv`, `.csv`, `.jsonl` (or `.ndjson`).
///
/// Tables: the columns named by `columns`, or the first two. A first row is a header where columns are named, or where
/// one of its first two cells says `source`, `target` or `english`. JSON lines: the keys named by `columns`, or
/// `source` and `target`, or the first two. Blank lines are skipped.
///
/// A side is spelled as Romanian where its column's name or its letters say so (see [`Orthography`]).
pub fn read(path: &Path, columns: Option<&[String; 2]>) -> Result<Pairs, PairsError> {
    let reader = Reader { path, columns };
    let text = &text::read(path)?;
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let (columns, rows) = match extension.as_deref() {
        Some("tsv") => reader.table(text, b'\t')?,
        Some("csv") => reader.table(text, b',')?,
        Some("jsonl" | "ndjson") => reader.json_lines(text)?,
        _ => return Err(PairsError::Kind { path: path.into() }),
    };
    reader.clean(columns, rows)
}

type Table = (Option<[String; 2]>, Vec<Row>);

struct Reader<'a> {
    path: &'a Path,
    columns: Option<&'a [String; 2]>,
}

impl Reader<'_> {
    fn error(&self, line: u64, message: impl Into<String>) -> PairsError {
        PairsError::Line { path: self.path.into(), line, message: message.into() }
    }

    fn table(&self, text: &str, delimiter: u8) -> Result<Table, PairsError> {
        // Quotes are letters in tab-separated files: an unpaired one must not swallow the rest.
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(delimiter == b',')
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let (mut names, mut at, mut rows, mut first) = (None, [0, 1], Vec::new(), true);
        for record in reader.records() {
            let record = record.map_err(|e| self.error(line_of(text, e.position()), e.to_string()))?;
            let line = line_of(text, record.position());
            if record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            if std::mem::take(&mut first) && (self.columns.is_some() || is_header(&record)) {
                at = self.find_columns(&record, line)?;
                names = Some(self.cells(&record, at, line)?.map(|name| name.trim().to_string()));
                continue;
            }
            rows.push(Row { line, sides: self.cells(&record, at, line)?.map(String::from) });
        }
        Ok((names, rows))
    }

    fn cells<'r>(&self, record: &'r csv::StringRecord, at: [usize; 2], line: u64) -> Result<[&'r str; 2], PairsError> {
        let [Some(source), Some(target)] = at.map(|i| record.get(i)) else {
            let (found, needed) = (record.len(), at[0].max(at[1]) + 1);
            return Err(self.error(line, format!("{found} column(s), expected at least {needed}")));
        };
        Ok([source, target])
    }

    fn find_columns(&self, header: &csv::StringRecord, line: u64) -> Result<[usize; 2], PairsError> {
        let find = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let Some(columns) = self.columns else {
            // Where one is named, the other is the first that is left.
            return Ok(match (find("source"), find("target")) {
                (Some(source), Some(target)) => [source, target],
                (Some(source), None) => [source, usize::from(source == 0)],
                (None, Some(target)) => [usize::from(target == 0), target],
                (None, None) => [0, 1],
            });
        };
        let at = |name: &String| {
            let there = header.iter().map(str::trim).collect::<Vec<_>>().join(", ");
            find(name).ok_or_else(|| self.error(line, format!("no column {name}; there are {there}")))
        };
        Ok([at(&columns[0])?, at(&columns[1])?])
    }

    fn json_lines(&self, text: &str) -> Result<Table, PairsError> {
        let (mut names, mut rows) = (None, Vec::new());
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let object: Map<String, Value> =
                serde_json::from_str(text).map_err(|e| self.error(line, format!("not a JSON object: {e}")))?;
            let keys = match &names {
                None => names.insert(self.find_keys(&object, line)?),
                Some(keys) => keys,
            };
            let side = |key: &String| match object.get(key) {
                Some(Value::String(side)) => Ok(side.clone()),
                Some(other) => Err(self.error(line, format!("{key} is {other}, expected a string"))),
                None => Err(self.error(line, format!("no key {key}"))),
            };
            rows.push(Row { line, sides: [side(&keys[0])?, side(&keys[1])?] });
        }
        Ok((names, rows))
    }

    fn find_keys(&self, object: &Map<String, Value>, line: u64) -> Result<[String; 2], PairsError> {
        if let Some(columns) = self.columns {
            return Ok(columns.clone());
        }
        if object.contains_key("source") && object.contains_key("target") {
            return Ok(["source".into(), "target".into()]);
        }
        let mut keys = object.keys();
        match (keys.next(), keys.next()) {
            (Some(source), Some(target)) => Ok([source.clone(), target.clone()]),
            _ => Err(self.error(line, format!("{} key(s), expected source and target", object.len()))),
        }
    }

    /// Normalises, refuses empty sides, drops duplicates.
    fn clean(&self, columns: Option<[String; 2]>, rows: Vec<Row>) -> Result<Pairs, PairsError> {
        let orthography = [0, 1].map(|side| {
            let named = columns.as_ref().map(|names| Orthography::of_language(&names[side]));
            let detected = || Orthography::detect(rows.iter().map(|row| row.sides[side].as_str()));
            named.filter(|&o| o != Orthography::General).unwrap_or_else(detected)
        });
        let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
        let (mut duplicates, mut respelled) = (0, 0);
        for Row { line, sides: [source, target] } in rows {
            let (source, in_source) = normalise(source.trim(), orthography[0]);
            let (target, in_target) = normalise(target.trim(), orthography[1]);
            if source.is_empty() || target.is_empty() {
                let side = if source.is_empty() { "first" } else { "second" };
                return Err(self.error(line, format!("the {side} side of the pair is empty")));
            }
            let pair = Pair { source, target };
            respelled += in_source + in_target;
            if seen.insert(pair.clone()) {
                pairs.push(pair);
            } else {
                duplicates += 1;
            }
        }
        if pairs.is_empty() {
            return Err(PairsError::Empty { path: self.path.into() });
        }
        Ok(Pairs { pairs, columns, duplicates, respelled })
    }
}

/// The line of a record. The csv crate's own count is taken before the line ends that it skips.
fn line_of(text: &str, start: Option<&csv::Position>) -> u64 {
    let Some(start) = start else { return 1 };
    let rest = text.as_bytes().get(start.byte() as usize..).unwrap_or_default();
    let skipped = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).filter(|&&b| b == b'\n').count();
    start.line() + skipped as u64
}

fn is_header(record: &csv::StringRecord) -> bool {
    let names = ["source", "target", "english"];
    record.iter().take(2).any(|cell| names.iter().any(|name| cell.trim().eq_ignore_ascii_case(name)))
}
