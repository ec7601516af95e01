use super::words;
use kiungo::formats::squad::{Dataset, check_aligned, languages_in, open_languages};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Two articles of one paragraph each; the ids of their questions.
fn file(first: &[&str], second: &[&str], word: &str) -> Value {
    let paragraph = |ids: &[&str]| {
        let qas: Vec<_> = ids
            .iter()
            .map(|id| json!({"id": id, "question": format!("{word} {id}?"), "answers": [{"text": "x", "answer_start": 0}]}))
            .collect();
        json!({"context": format!("{word} text"), "qas": qas})
    };
    json!({"version": "1.1", "data": [
        {"title": "A", "paragraphs": [paragraph(first)]},
        {"paragraphs": [paragraph(second)]}
    ]})
}

fn write(folder: &Path, language: &str, json: &Value) {
    fs::write(folder.join(format!("xquad.{language}.json")), json.to_string()).unwrap();
}

fn languages(codes: &[&str]) -> Vec<String> {
    codes.iter().map(|c| c.to_string()).collect()
}

#[test]
fn languages_are_read_in_the_order_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "en", &file(&["1", "2"], &["3"], "what"));
    write(folder.path(), "ro", &file(&["1", "2"], &["3"], "ţări"));
    write(folder.path(), "tr", &file(&["1", "2"], &["3"], "şey"));
    fs::write(folder.path().join("NOTE"), "").unwrap();
    assert_eq!(languages_in(folder.path()).unwrap(), ["en", "ro", "tr"]);
    let sets = open_languages(folder.path(), &languages(&["ro", "tr", "en"])).unwrap();
    assert_eq!(sets.iter().map(|s| s.language.as_str()).collect::<Vec<_>>(), ["ro", "tr", "en"]);
    assert_eq!(sets.iter().map(|s| s.respelled).collect::<Vec<_>>(), [5, 0, 0], "Turkish keeps its letters");
    let romanian = &sets[0];
    assert_eq!(romanian.articles[0].title, "A");
    assert_eq!(romanian.paragraphs().map(|p| p.context.as_str()).collect::<Vec<_>>(), ["țări text", "țări text"]);
    let questions: Vec<_> = romanian.questions().map(|(i, q)| (i, q.id.as_str(), q.text.as_str())).collect();
    assert_eq!(questions, [(0, "1", "țări 1?"), (0, "2", "țări 2?"), (1, "3", "țări 3?")]);
}

#[test]
fn other_files_are_refused_with_what_was_found() {
    let expects = "expected data, paragraphs, qas";
    let no_text = json!({"data": [{"paragraphs": [{"context": " ", "qas": []}]}]});
    let no_question = json!({"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "7", "question": ""}]}]}]});
    let cases = [
        (
            "[1, 2]".into(),
            format!(
                "x.json: not SQuAD v1.1 JSON (an array of 2): invalid type: integer `1`, expected a sequence at line 1 column 2; {expects}"
            ),
        ),
        (
            r#"{"id": 1, "context": "c"}"#.into(),
            format!(
                "x.json: not SQuAD v1.1 JSON (an object of id, context): missing field `data` at line 1 column 25; {expects}"
            ),
        ),
        (
            "{\"id\": 1}\n{\"id\": 2}".into(),
            format!(
                "x.json: not SQuAD v1.1 JSON (not one JSON value): missing field `data` at line 1 column 9; {expects}"
            ),
        ),
        (
            "".into(),
            format!(
                "x.json: not SQuAD v1.1 JSON (not one JSON value): EOF while parsing a value at line 1 column 0; {expects}"
            ),
        ),
        (r#"{"data": []}"#.into(), "x.json: no questions".into()),
        (no_text.to_string(), "x.json: no text in paragraph 0".into()),
        (no_question.to_string(), "x.json: no text in question 7".into()),
        (
            file(&["1", "2"], &["1"], "a").to_string(),
            "x.json: question id 1 occurs twice; ids must be unique to join languages".into(),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    for (text, message) in cases {
        let text: String = text;
        fs::write(&path, text).unwrap();
        assert_eq!(words(Dataset::open(&path, "en").unwrap_err(), folder.path()), message);
    }
    fs::remove_file(&path).unwrap();
    let error = Dataset::open(&path, "en").unwrap_err();
    assert_eq!(words(error, folder.path()), "x.json: No such file or directory (os error 2)");
}

#[test]
fn a_missing_language_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |codes| words(open_languages(folder.path(), &languages(codes)).unwrap_err(), folder.path());
    assert_eq!(error(&["en"]), "FOLDER: no xquad.en.json or en.json; languages there: none");
    write(folder.path(), "en", &file(&["1"], &["2"], "a"));
    write(folder.path(), "de", &file(&["1"], &["2"], "a"));
    assert_eq!(error(&["en", "sw"]), "FOLDER: no xquad.sw.json or sw.json; languages there: de, en");
}

#[test]
fn languages_must_ask_the_same() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "en", &file(&["1", "2"], &["3"], "a"));
    let mut one_paragraph = file(&["1", "2"], &["3"], "b");
    one_paragraph["data"].as_array_mut().unwrap().pop();
    let cases = [
        (one_paragraph, "1 paragraphs, expected 2"),
        (file(&["1", "2"], &["4"], "b"), "question 4 of paragraph 1 stands where 3 of paragraph 1 is expected"),
        (file(&["1"], &["2", "3"], "b"), "question 2 of paragraph 1 stands where 2 of paragraph 0 is expected"),
        (file(&["1", "2"], &["3", "4"], "b"), "4 questions, expected 3"),
        (file(&["1", "2"], &[], "b"), "2 questions, expected 3"),
    ];
    for (json, message) in cases {
        write(folder.path(), "de", &json);
        let error = open_languages(folder.path(), &languages(&["en", "de"])).unwrap_err();
        let expected =
            format!("xquad.de.json: {message}; files of one version of the data set are needed, as in xquad.en.json");
        assert_eq!(words(error, folder.path()), expected);
    }
    assert!(check_aligned(&[]).is_ok());
}
