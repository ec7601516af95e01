use super::words;
use kiungo::formats::collection::{Collection, is_english};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// One article of one paragraph, asked by `ids`.
fn squad(context: &str, ids: &[&str]) -> Value {
    let question =
        |id: &&str| json!({"id": id, "question": format!("{id}?"), "answers": [{"text": "one", "answer_start": 0}]});
    let qas: Vec<Value> = ids.iter().map(question).collect();
    json!({"data": [{"paragraphs": [{"context": context, "qas": qas}]}, {"paragraphs": [{"context": "b", "qas": []}]}]})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| row.to_string() + "\n").collect()
}

fn write(folder: &Path, name: &str, text: impl ToString) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text.to_string()).unwrap();
}

fn relevant(c: &Collection) -> Vec<(&str, &str, Vec<usize>)> {
    c.questions.iter().map(|q| (c.languages[q.language].as_str(), q.text.as_str(), q.relevant.clone())).collect()
}

#[test]
fn a_folder_of_languages_answers_across_them() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "xquad.en.json", squad("one", &["p", "q"]));
    write(folder.path(), "xquad.ro.json", squad("ţara", &["p", "q"]));
    write(folder.path(), "other.json", "not read");
    let mut all = Collection::open(folder.path()).unwrap();
    assert_eq!((all.name.as_str(), &all.languages[..]), ("SQuAD", &["en".to_string(), "ro".into()][..]));
    let both = vec![0, 2];
    let expected = [("en", "p?"), ("en", "q?"), ("ro", "p?"), ("ro", "q?")].map(|(l, q)| (l, q, both.clone()));
    assert_eq!(relevant(&all), expected);
    assert_eq!(all.passages[2].text, "țara");
    assert_eq!(
        all.notes,
        [
            "SQuAD: 2 answers in ro do not stand where the file says; its place is believed.",
            "SQuAD: 1 cedilla letters in ro became comma-below ones."
        ]
    );
    all.restrict(&["en".into()]);
    assert_eq!((all.languages.len(), all.passages.len()), (1, 2));
    assert_eq!(relevant(&all), [("en", "p?", vec![0]), ("en", "q?", vec![0])]);
}

#[test]
fn sentences_are_candidates_where_the_file_lists_them() {
    let folder = tempfile::tempdir().unwrap();
    let question = |id: &str, answer: &str, start: usize| json!({"id": id, "question": id, "answers": [{"text": answer, "answer_start": start}]});
    // The é is two code points here and one in NFC.
    let context = "Cafe\u{301} one. Two two. Three.";
    let file = json!({"data": [{"paragraphs": [{
        "context": context, "sentences": ["Cafe\u{301} one.", "Two two.", "Three."],
        "sentence_breaks": [[0, 10], [11, 19], [20, 26]],
        "qas": [question("a", "Two", 11), question("b", "Three", 20), question("c", "one. Two", 6)],
    }]}]});
    write(folder.path(), "en.json", file);
    let all = Collection::open(folder.path()).unwrap();
    assert_eq!(all.name, "XQuAD-R");
    let places: Vec<_> = all.passages.iter().map(|p| p.within.clone().unwrap()).collect();
    assert_eq!(places, [(0, 0..10), (0, 11..19), (0, 20..26)]);
    for (passage, (_, bytes)) in all.passages.iter().zip(places) {
        assert_eq!(passage.text, all.paragraphs[0][bytes]);
    }
    assert_eq!(relevant(&all), [("en", "a", vec![1]), ("en", "b", vec![2]), ("en", "c", vec![0])]);
    assert_eq!(all.notes, ["XQuAD-R: 1 answers in en reach beyond a sentence; that in which they begin is right."]);
}

#[test]
fn afriqa_says_which_answers_it_cannot_find() {
    let folder = tempfile::tempdir().unwrap();
    let row = |id: u32, question: &str, context: &str, start: i64| {
        json!({"id": id.to_string(), "title": null, "context": context, "question_lang": question, "question_translated": "x",
               "answer_pivot": {"text": ["one"], "answer_start": [start]}, "answer_lang": "moja"})
    };
    let name = "gold_span_passages.afriqa.swa.en.test.json";
    write(
        folder.path(),
        name,
        lines(&[row(0, "moja?", "one", 0), row(1, "mbili?", "two", -1), row(2, "tatu?", "one", 9)]),
    );
    let mut all = Collection::open(&folder.path().join(name)).unwrap();
    assert_eq!((all.name.as_str(), all.languages.join(" ")), ("AfriQA", "swa en".into()));
    assert_eq!(relevant(&all), [("swa", "moja?", vec![0]), ("swa", "mbili?", vec![1]), ("swa", "tatu?", vec![0])]);
    assert_eq!(
        all.notes,
        [
            "AfriQA: 3 questions in swa over 2 different passages in en.",
            "AfriQA: 2 answers do not stand where the file says; their questions stay, since only the passage is searched for."
        ]
    );
    write(folder.path(), "x/xquad.en.json", squad("three", &["p"]));
    write(folder.path(), "x/xquad.ro.json", squad("trei", &["p"]));
    assert_eq!(all.add_distractors(&Collection::open(&folder.path().join("x")).unwrap()), 2);
    let added: Vec<_> = all.passages.iter().map(|p| (p.text.as_str(), p.distractor)).collect();
    assert_eq!(added, [("one", false), ("two", false), ("three", true), ("b", true)]);
}

#[test]
fn belebele_joins_languages_by_link_and_number() {
    let folder = tempfile::tempdir().unwrap();
    let row = |link: &str, n: u64, passage: &str, question: &str, dialect: &str| {
        json!({"link": link, "question_number": n, "flores_passage": passage, "question": question, "dialect": dialect,
               "mc_answer1": "", "correct_answer_num": "1"})
    };
    write(
        folder.path(),
        "eng_Latn.jsonl",
        lines(&[row("l", 1, "one", "a?", "eng_Latn"), row("m", 1, "two", "b?", "eng_Latn")]),
    );
    write(
        folder.path(),
        "swh_Latn.jsonl",
        lines(&[row("m", 1, "mbili", "b?", "swh_Latn"), row("l", 1, "moja", "a?", "swh_Latn")]),
    );
    let all = Collection::open(folder.path()).unwrap();
    assert_eq!(all.name, "Belebele");
    assert_eq!(all.languages.join(" "), "eng_Latn swh_Latn");
    let expected = [
        ("eng_Latn", "a?", vec![0, 3]),
        ("eng_Latn", "b?", vec![1, 2]),
        ("swh_Latn", "b?", vec![1, 2]),
        ("swh_Latn", "a?", vec![0, 3]),
    ];
    assert_eq!(relevant(&all), expected);
    assert!(is_english("eng_Latn") && is_english("en") && !is_english("enm"));
}

#[test]
fn a_beir_folder_is_three_files() {
    let folder = tempfile::tempdir().unwrap();
    let beir = folder.path().join("beir");
    write(
        &beir,
        "corpus.jsonl",
        lines(&[json!({"_id": "d1", "title": "T", "text": "one"}), json!({"_id": "d2", "text": "two"})]),
    );
    write(
        &beir,
        "queries.jsonl",
        lines(&[
            json!({"_id": "q1", "text": "a"}),
            json!({"_id": "q2", "text": "b"}),
            json!({"_id": "q3", "text": "c"}),
        ]),
    );
    write(&beir, "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n");
    write(
        &beir,
        "qrels/test.tsv",
        "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1\t1\nq2\td1\t0\nq3\td2\t1\nq3\td9\t1\n",
    );
    let all = Collection::open(&beir).unwrap();
    assert_eq!(all.passages[0].text, "T one");
    assert_eq!(relevant(&all), [("und", "a", vec![0, 1]), ("und", "c", vec![1])]);
    let notes: Vec<String> = all.notes.iter().map(|note| words(note, folder.path())).collect();
    assert_eq!(
        notes,
        [
            "BEIR beir: judgements from beir/qrels/test.tsv.",
            "BEIR beir: 1 judgements name queries or documents that are not there, and are left out; the first in line 6: query q3, document d9.",
            "BEIR beir: grades above 1 count as 1.",
            "BEIR beir: 1 questions have no passage that answers them, and are left out."
        ]
    );
}

#[test]
fn what_is_no_data_set_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str| {
        write(folder.path(), name, text);
        words(Collection::open(&folder.path().join(name)).unwrap_err(), folder.path())
    };
    let known = "known are folders of xquad.LANG.json or LANG.json (XQuAD, XQuAD-R), a SQuAD v1.1 .json, AfriQA gold passages and Belebele as .jsonl, and BEIR folders (corpus.jsonl, queries.jsonl, qrels/*.tsv)";
    assert_eq!(
        refused("a.jsonl", "{\"id\": 1, \"text\": \"x\"}\n"),
        format!("a.jsonl: JSON lines of id, text; {known}")
    );
    let queries = "{\"id\": 1, \"question\": \"x\", \"translated_question\": \"y\"}\n";
    assert_eq!(
        refused("q.json", queries),
        format!("q.json: AfriQA's questions without passages; its gold_passages have both; {known}")
    );
    assert_eq!(
        refused("c.jsonl", "{\"_id\": 1}\n"),
        format!("c.jsonl: a part of a BEIR folder; name the folder; {known}")
    );
    let row = "{\"id\": 1, \"context\": \"c\", \"question_lang\": \"q\"}\n";
    let broken = refused("b.jsonl", &format!("{row}\n{{\"id\": 1}}\n"));
    assert_eq!(broken, "b.jsonl:3: missing field `context` at line 1 column 9");
    let empty = refused("e.jsonl", &format!("{row}{}", row.replace("\"c\"", "\" \"")));
    assert_eq!(empty, "e.jsonl:2: context is empty");
    assert!(refused("s.json", "[1]").starts_with("s.json: not SQuAD v1.1 JSON (an array of 1): "));
    fs::write(folder.path().join("u.jsonl"), b"{}\n\xFF").unwrap();
    let error = Collection::open(&folder.path().join("u.jsonl")).unwrap_err();
    assert_eq!(words(error, folder.path()), "u.jsonl:2: not UTF-8; save the file as UTF-8");
    fs::create_dir(folder.path().join("none")).unwrap();
    let error = Collection::open(&folder.path().join("none")).unwrap_err();
    assert_eq!(words(error, folder.path()), format!("none: no data set in this folder; {known}"));

    let beir = folder.path().join("beir");
    write(&beir, "corpus.jsonl", "{\"_id\": \"d\", \"text\": \"one\"}\n");
    write(&beir, "queries.jsonl", "{\"_id\": \"q\", \"text\": \"a\"}\n");
    write(&beir, "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td\tyes\n");
    let error = words(Collection::open(&beir).unwrap_err(), folder.path());
    assert_eq!(error, "beir/qrels/test.tsv:2: expected query, document and a whole number, between tabs");
    write(&beir, "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\td\t0\n");
    let error = words(Collection::open(&beir).unwrap_err(), folder.path());
    assert_eq!(error, "beir: no question has an answer among the passages");
}

/// What people's files are like: each is read as it was meant, or refused with its place.
#[test]
fn odd_files_are_read_or_refused_by_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let put = |name: &str, bytes: &[u8]| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), bytes).unwrap();
    };
    let good = squad("one\u{0} \u{1f600}", &["p"]).to_string();
    let afriqa = json!({"id": 1, "title": "t", "context": "c", "question_lang": "q", "answer_pivot": null}).to_string();
    let belebele =
        json!({"link": "l", "question_number": 1, "flores_passage": "f", "question": "q", "dialect": "swh_Latn"});
    // With a mark in front, with lines of Windows, with blank ones, without a last line's end, with a line of 4 MB.
    put("marked.en.json", format!("\u{feff}{good}").as_bytes());
    put("lines.jsonl", format!("\u{feff}\r\n{belebele}\r\n\r\n").as_bytes());
    put("gold.afriqa.swa.en.test.json", format!("\u{feff}{afriqa}\r\n{afriqa}").as_bytes());
    let long = json!({"_id": "d", "text": "word ".repeat(800_000)}).to_string();
    put("beir/corpus.jsonl", format!("{{\"_id\": \"e\", \"text\": \"x\"}}\n{long}").as_bytes());
    put("beir/queries.jsonl", b"\xef\xbb\xbf{\"_id\": \"q\", \"text\": \"y\"}\r\n");
    put("beir/qrels/test.tsv", b"query-id\tcorpus-id\tscore\r\nq\td\t1\r\nq\tnone\t1\r\nother\te\t1\r\n");
    for name in ["marked.en.json", "lines.jsonl", "gold.afriqa.swa.en.test.json", "beir"] {
        let all = Collection::open(&at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(all.questions.iter().all(|q| !q.relevant.is_empty() && !q.text.contains(['\u{feff}', '\r'])), "{name}");
    }
    let notes = Collection::open(&at("beir")).unwrap().notes;
    let left_out = "BEIR beir: 2 judgements name queries or documents that are not there, and are left out; the first in line 3: query q, document none.";
    assert!(notes.iter().any(|note| note == left_out), "{notes:?}");

    let refused: [(&str, Vec<u8>, &str); 14] = [
        (
            "a.en.json",
            vec![],
            "a.en.json: not SQuAD v1.1 JSON (not one JSON value): EOF while parsing a value at line 1",
        ),
        ("b.en.json", b"{\"data\":\n[}".to_vec(), "b.en.json: not SQuAD v1.1 JSON (not one JSON value): "),
        ("c.en.json", b"{\"data\": []\n, \"x\": \"\xff\"}".to_vec(), "c.en.json:2: not UTF-8; save the file as UTF-8"),
        ("d.en.json", b"\xff\xfe{\0}\0".to_vec(), "d.en.json:1: not UTF-8; save the file as UTF-8"),
        ("e.jsonl", vec![], "e.jsonl: no question has an answer among the passages"),
        ("f.jsonl", b"\n{\"flores_passage\"".to_vec(), "f.jsonl:2: not a JSON object: EOF while parsing"),
        ("g.jsonl", format!("{belebele}\n{{}}").into(), "g.jsonl:2: missing field `link`"),
        ("h.jsonl", format!("{belebele}\n\n\u{0}").into(), "h.jsonl:3: expected value"),
        ("i.afriqa.swa.en.json", format!("{afriqa}\n[]").into(), "i.afriqa.swa.en.json:2: invalid length 0"),
        ("j.jsonl", b"{\"a\": 1}".to_vec(), "j.jsonl: JSON lines of a; known are"),
        (
            "beir/qrels/test.tsv",
            b"q d 1\n".to_vec(),
            "test.tsv:1: expected query, document and a whole number, between",
        ),
        ("beir/qrels/test.tsv", b"a\tb\tc\nq\td\tx\n".to_vec(), "test.tsv:2: expected query, document and a whole"),
        (
            "beir/qrels/test.tsv",
            b"a\tb\tc\nq\tz\t1\n".to_vec(),
            "test.tsv:2: query q, document z: not in queries.jsonl and corpus.jsonl, nor is any other",
        ),
        (
            "beir/queries.jsonl",
            b"{\"_id\": \"q\", \"text\": \"y\"}\n{\"_id\": \"q\", \"text\": \"z\"}".to_vec(),
            "queries.jsonl:2: a second text with the _id q",
        ),
    ];
    for (name, bytes, expected) in refused {
        put(name, &bytes);
        let path = if name.starts_with("beir") { at("beir") } else { at(name) };
        let error = Collection::open(&path).unwrap_err().to_string();
        let said = error.rsplit('/').next().unwrap_or_default();
        assert!(error.contains(expected), "{name}: {said} is not: {expected}");
    }
}
