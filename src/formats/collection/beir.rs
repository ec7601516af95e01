//! BEIR's folders: corpus.jsonl, queries.jsonl and qrels/*.tsv (arXiv 2104.08663).

use super::{Collection, CollectionError, Passage, Question, Result, Spelling, UNNAMED, parse_lines, read};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    id: String,
    title: Option<String>,
    text: String,
}

/// A folder, whose language nothing says. Any judgement above zero counts as relevant.
pub fn open(folder: &Path) -> Result<Collection> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut all = Collection { name: format!("BEIR {name}"), ..Collection::default() };
    let language = all.language(UNNAMED);
    let mut spelling = Spelling::default();
    let mut rows = |file: &str| -> Result<Vec<(String, String)>> {
        let path = folder.join(file);
        let mut ids = HashSet::new();
        let with_title = |row: &Row| match row.title.as_deref() {
            None | Some("") => row.text.clone(),
            Some(title) => format!("{title} {}", row.text),
        };
        let wrong = |line, message| Err(CollectionError::Line { path: path.clone(), line, message });
        let parse = |(line, row): (usize, Row)| match spelling.text(&with_title(&row), UNNAMED) {
            text if text.is_empty() => wrong(line, format!("{} has no text", row.id)),
            _ if !ids.insert(row.id.clone()) => wrong(line, format!("a second text with the _id {}", row.id)),
            text => Ok((row.id, text)),
        };
        parse_lines(&path, &read(&path)?)?.into_iter().map(parse).collect()
    };
    let (corpus, queries) = (rows("corpus.jsonl")?, rows("queries.jsonl")?);
    let places: HashMap<&str, usize> = corpus.iter().enumerate().map(|(i, (id, _))| (id.as_str(), i)).collect();
    let numbers: HashMap<&str, usize> = queries.iter().enumerate().map(|(i, (id, _))| (id.as_str(), i)).collect();
    let path = judgements(folder)?;
    let mut relevant = vec![vec![]; queries.len()];
    let (mut unknown, mut known, mut graded) = (vec![], 0, false);
    for Judgement { line, query, document, grade } in parse_judgements(&path)? {
        graded |= grade > 1;
        match (numbers.get(query.as_str()), places.get(document.as_str())) {
            (Some(&query), Some(&place)) => {
                known += 1;
                relevant[query].extend(Some(place).filter(|_| grade > 0));
            }
            _ => unknown.push((line, format!("query {query}, document {document}"))),
        }
    }
    if let (0, Some((line, first))) = (known, unknown.first()) {
        let message = format!("{first}: not in queries.jsonl and corpus.jsonl, nor is any other");
        return Err(CollectionError::Line { path, line: *line, message });
    }
    for (article, (_, text)) in corpus.iter().enumerate() {
        all.passages.push(Passage { language, text: text.clone(), within: None, article, distractor: false });
    }
    for ((id, text), mut relevant) in queries.into_iter().zip(relevant) {
        relevant.sort_unstable();
        relevant.dedup();
        let cluster = relevant.first().copied().unwrap_or(0);
        all.questions.push(Question { id, language, text, relevant, cluster, article: cluster });
    }
    all.note(format!("judgements from {}", path.display()));
    if let Some((line, first)) = unknown.first() {
        let n = unknown.len();
        all.note(format!(
            "{n} judgements name queries or documents that are not there, and are left out; the first in line {line}: {first}"
        ));
    }
    if graded {
        all.note("grades above 1 count as 1".into());
    }
    Ok(all)
}

/// test.tsv where it is there, else dev.tsv, else the first.
fn judgements(folder: &Path) -> Result<PathBuf> {
    let qrels = folder.join("qrels");
    let entries = std::fs::read_dir(&qrels).map_err(|source| CollectionError::Read { path: qrels.clone(), source })?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "tsv")).collect();
    let order = ["test", "dev"];
    let place =
        |path: &PathBuf| order.iter().position(|name| path.file_stem().is_some_and(|stem| stem == *name)).unwrap_or(2);
    files.sort_by_key(|path| (place(path), path.clone()));
    files.into_iter().next().ok_or(CollectionError::Kind { path: qrels, found: "no .tsv of judgements".into() })
}

struct Judgement {
    line: usize,
    query: String,
    document: String,
    grade: i64,
}

fn parse_judgements(path: &Path) -> Result<Vec<Judgement>> {
    let text = read(path)?;
    let mut judgements = vec![];
    for (line, row) in (1..).zip(text.lines()).filter(|(_, row)| !row.trim().is_empty()) {
        let cells: Vec<&str> = row.trim_end().split('\t').collect();
        let grade = cells.last().map(|grade| grade.parse());
        match (&cells[..], grade) {
            // BEIR's three columns, or TREC's four with an iteration that nobody uses.
            (&[query, document, _] | &[query, _, document, _], Some(Ok(grade))) => {
                judgements.push(Judgement { line, query: query.into(), document: document.into(), grade });
            }
            // Names of columns.
            (&[..], _) if line == 1 && matches!(cells.len(), 3 | 4) => {}
            _ => {
                let message = "expected query, document and a whole number, between tabs".into();
                return Err(CollectionError::Line { path: path.into(), line, message });
            }
        }
    }
    Ok(judgements)
}
