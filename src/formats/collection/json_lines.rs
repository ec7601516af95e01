//! AfriQA's gold passages and Belebele, as JSON lines.

use super::{Collection, CollectionError, Passage, Question, Result, Spelling, UNNAMED, parse_lines, read};
use crate::formats::squad::Answer;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Files of one kind, which is known by the keys of the first line.
pub fn open(paths: &[PathBuf]) -> Result<Collection> {
    let texts = paths.iter().map(|path| Ok(read(path)?)).collect::<Result<Vec<_>>>()?;
    let files: Vec<(&Path, &str)> = paths.iter().map(PathBuf::as_path).zip(texts.iter().map(String::as_str)).collect();
    let (path, text) = files[0];
    let first = (1..).zip(text.lines()).find(|(_, line)| !line.trim().is_empty());
    let Some((line, first)) = first else { return Err(CollectionError::Empty { path: path.into() }) };
    let keys: Map<String, Value> = serde_json::from_str(first).map_err(|e| {
        let message = format!("not a JSON object: {e}");
        CollectionError::Line { path: path.into(), line, message }
    })?;
    let has = |key: &str| keys.contains_key(key);
    if has("flores_passage") {
        return belebele(&files);
    }
    if has("context") && has("question_lang") {
        return match files[..] {
            [(path, text)] => afriqa(path, text),
            _ => Err(CollectionError::Kind {
                path: paths[1].clone(),
                found: "a second file beside one of AfriQA; name one".into(),
            }),
        };
    }
    let found = match (has("translated_question"), has("_id")) {
        (true, _) => "AfriQA's questions without passages; its gold_passages have both".into(),
        (_, true) => "a part of a BEIR folder; name the folder".into(),
        _ => format!("JSON lines of {}", keys.keys().take(6).map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    Err(CollectionError::Kind { path: path.into(), found })
}

#[derive(Deserialize)]
struct AfriqaRow {
    id: Value,
    title: Option<String>,
    context: String,
    question_lang: String,
    answer_pivot: Option<AfriqaAnswer>,
}

#[derive(Deserialize)]
struct AfriqaAnswer {
    #[serde(default)]
    text: Vec<String>,
    #[serde(default)]
    answer_start: Vec<i64>,
}

/// Questions in an African language over passages in the pivot language, as the file's name says: `...afriqa.swa.en...`.
fn afriqa(path: &Path, text: &str) -> Result<Collection> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = name.split('.').skip_while(|part| *part != "afriqa").skip(1);
    let (asked, pivot) = (parts.next().unwrap_or(UNNAMED), parts.next().unwrap_or("en"));
    let mut all = Collection { name: "AfriQA".into(), ..Collection::default() };
    let mut spelling = Spelling::default();
    let (question_language, passage_language) = (all.language(asked), all.language(pivot));
    let (mut places, mut articles) = (HashMap::new(), HashMap::new());
    let mut lost = 0;
    for (line, row) in parse_lines::<AfriqaRow>(path, text)? {
        let context = spelling.text(&row.context, pivot);
        let question = spelling.text(&row.question_lang, asked);
        for (what, text) in [("context", &context), ("question_lang", &question)] {
            if text.is_empty() {
                return Err(CollectionError::Line { path: path.into(), line, message: format!("{what} is empty") });
            }
        }
        let next = articles.len();
        let article = *articles.entry(row.title.clone().unwrap_or_else(|| context.clone())).or_insert(next);
        let place = *places.entry(context.clone()).or_insert_with(|| {
            all.passages.push(Passage {
                language: passage_language,
                text: context.clone(),
                within: None,
                article,
                distractor: false,
            });
            all.passages.len() - 1
        });
        lost += usize::from(!row.answer_stands());
        let id = row.id.as_str().map_or_else(|| row.id.to_string(), String::from);
        all.questions.push(Question {
            id,
            language: question_language,
            text: question,
            relevant: vec![place],
            cluster: place,
            article,
        });
    }
    let (questions, passages) = (all.questions.len(), all.passages.len());
    all.note(format!("{questions} questions in {asked} over {passages} different passages in {pivot}"));
    if lost > 0 {
        all.note(format!("{lost} answers do not stand where the file says; their questions stay, since only the passage is searched for"));
    }
    spelling.note(&mut all);
    Ok(all)
}

impl AfriqaRow {
    fn answer_stands(&self) -> bool {
        let Some(AfriqaAnswer { text, answer_start }) = &self.answer_pivot else { return false };
        let start = answer_start.first().and_then(|&start| usize::try_from(start).ok());
        match (text.first(), start) {
            (Some(text), Some(start)) => Answer::locate(&self.context, text, start) == Answer::Found,
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct BelebeleRow {
    link: String,
    question_number: u64,
    flores_passage: String,
    question: String,
    dialect: String,
}

/// Languages are joined by link and question number, as the data set's authors do.
fn belebele(files: &[(&Path, &str)]) -> Result<Collection> {
    let mut all = Collection { name: "Belebele".into(), ..Collection::default() };
    let mut spelling = Spelling::default();
    let mut places: HashMap<(usize, String), usize> = HashMap::new();
    let mut articles: HashMap<String, usize> = HashMap::new();
    // The passages that answer a question, one a language.
    let mut answers: BTreeMap<(String, u64), Vec<usize>> = BTreeMap::new();
    let mut keys = vec![];
    for &(path, text) in files {
        for (line, row) in parse_lines::<BelebeleRow>(path, text)? {
            let language = all.language(&row.dialect);
            let passage = spelling.text(&row.flores_passage, &row.dialect);
            let question = spelling.text(&row.question, &row.dialect);
            if passage.is_empty() || question.is_empty() {
                let what = if passage.is_empty() { "flores_passage" } else { "question" };
                return Err(CollectionError::Line { path: path.into(), line, message: format!("{what} is empty") });
            }
            let next = articles.len();
            let article = *articles.entry(row.link.clone()).or_insert(next);
            let place = *places.entry((language, passage.clone())).or_insert_with(|| {
                all.passages.push(Passage { language, text: passage, within: None, article, distractor: false });
                all.passages.len() - 1
            });
            let key = (row.link, row.question_number);
            answers.entry(key.clone()).or_default().push(place);
            let id = format!("{}#{}", key.0, key.1);
            all.questions.push(Question { id, language, text: question, relevant: vec![], cluster: 0, article });
            keys.push(key);
        }
    }
    for (question, key) in all.questions.iter_mut().zip(&keys) {
        question.relevant = answers[key].clone();
        question.relevant.sort_unstable();
        question.relevant.dedup();
        // The passage in the language that was read first stands for its translations.
        question.cluster = question.relevant[0];
    }
    spelling.note(&mut all);
    Ok(all)
}
