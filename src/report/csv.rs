//! Numbers as comma-separated text, unrounded.

use csv::{Error, Writer};
use serde_json::Value;

/// A line for every line of cells, behind a header of names without spaces.
pub fn lines(header: &str, mut rows: impl Iterator<Item = Vec<String>>) -> Result<String, Error> {
    let mut out = Writer::from_writer(vec![]);
    out.write_record(header.split(' '))?;
    rows.try_for_each(|row| out.write_record(row))?;
    let bytes = out.into_inner().map_err(|e| Error::from(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line for every number and word in a JSON value, by the names and places on the way to it: `scores.3.map`.
pub fn flattened(value: &Value) -> Result<String, Error> {
    let mut rows = vec![];
    flatten("", value, &mut rows);
    lines("name value", rows.into_iter())
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&below(name), value, rows)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| flatten(&below(&i.to_string()), value, rows));
        }
        Value::String(text) => rows.push(vec![path.into(), text.clone()]),
        other => rows.push(vec![path.into(), other.to_string()]),
    }
}
