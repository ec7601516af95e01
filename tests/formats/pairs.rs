use super::words;
use kiungo::formats::pairs::{Pair, Pairs, PairsError, read, split};
use std::collections::HashSet;
use std::fs;
use tempfile::TempDir;

fn pair(source: &str, target: &str) -> Pair {
    Pair { source: source.into(), target: target.into() }
}

fn read_text(name: &str, text: impl AsRef<[u8]>, columns: Option<[&str; 2]>) -> (TempDir, Result<Pairs, PairsError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let pairs = read(&path, columns.map(|c| c.map(String::from)).as_ref());
    (folder, pairs)
}

#[test]
fn every_kind_of_file_gives_the_same_pairs() {
    let expected = [pair("maji", "water"), pair("moto", "fire, \"blaze\""), pair("a", "\u{e9}")];
    let named = Some(["sw", "en"]);
    let cases = [
        ("x.tsv", "maji\twater\tNoun\r\nmoto\tfire, \"blaze\"\n\n  a \te\u{301}\n", None, None),
        ("x.tsv", "\u{feff}Source\tTarget\nmaji\twater\nmoto\tfire, \"blaze\"\na\té", None, Some(["Source", "Target"])),
        ("x.tsv", "id\ten\tsw\n1\twater\tmaji\n2\tfire, \"blaze\"\tmoto\n3\té\ta\n", named, Some(["sw", "en"])),
        (
            "x.csv",
            "swahili,English\nmaji,water\nmoto,\"fire, \"\"blaze\"\"\"\na,é\n",
            None,
            Some(["swahili", "English"]),
        ),
        (
            "x.csv",
            "English, source\nwater,maji\n\"fire, \"\"blaze\"\"\",moto\né,a\n",
            None,
            Some(["source", "English"]),
        ),
        ("x.csv", "target,source\nwater,maji\n\"fire, \"\"blaze\"\"\",moto\né,a\n", None, Some(["source", "target"])),
        (
            "x.JSONL",
            "{\"id\":1,\"target\":\"water\",\"source\":\"maji\"}\n\n{\"source\":\"moto\",\"target\":\"fire, \\\"blaze\\\"\"}\n{\"target\":\"é\",\"source\":\"a\"}",
            None,
            Some(["source", "target"]),
        ),
        (
            "x.jsonl",
            "{\"sw\":\"maji\",\"en\":\"water\"}\n{\"en\":\"fire, \\\"blaze\\\"\",\"sw\":\"moto\"}\n{\"sw\":\"a\",\"en\":\"é\"}",
            None,
            Some(["sw", "en"]),
        ),
        (
            "x.ndjson",
            "{\"en\":\"water\",\"sw\":\"maji\"}\n{\"en\":\"fire, \\\"blaze\\\"\",\"sw\":\"moto\"}\n{\"sw\":\"a\",\"en\":\"é\"}",
            named,
            Some(["sw", "en"]),
        ),
    ];
    for (name, text, columns, names) in cases {
        let pairs = read_text(name, text, columns).1.unwrap();
        assert_eq!(pairs.pairs, expected, "{name}: {text}");
        assert_eq!(pairs.columns, names.map(|n| n.map(String::from)), "{name}: {text}");
        assert_eq!((pairs.duplicates, pairs.respelled), (0, 0));
    }
}

#[test]
fn duplicates_are_dropped_and_counted() {
    let pairs = read_text("x.tsv", "a\tb\na\tc\n a \tb\na\tb", None).1.unwrap();
    assert_eq!((pairs.pairs, pairs.duplicates), (vec![pair("a", "b"), pair("a", "c")], 2));
}

#[test]
fn romanian_is_respelled_and_counted() {
    // By the name of the column; a word twice in two spellings is one.
    let pairs = read_text("x.tsv", "romanian\tenglish\nşi\tand\nși\tand\nşal\tşal", None).1.unwrap();
    assert_eq!((pairs.pairs, pairs.duplicates), (vec![pair("și", "and"), pair("șal", "şal")], 1));
    assert_eq!(pairs.respelled, 2);
    // By its letters.
    let pairs = read_text("x.tsv", "ţânţar\tmosquito\nşi\tand", None).1.unwrap();
    assert_eq!((pairs.pairs, pairs.respelled), (vec![pair("țânțar", "mosquito"), pair("și", "and")], 3));
    // Turkish keeps its letters.
    let pairs = read_text("x.tsv", "başkan\tpresident", None).1.unwrap();
    assert_eq!((pairs.pairs, pairs.respelled), (vec![pair("başkan", "president")], 0));
}

#[test]
fn bad_lines_are_named() {
    type Case<'a> = (&'a str, &'a [u8], Option<[&'a str; 2]>, &'a str);
    let cases: &[Case] = &[
        ("x.txt", b"a\tb", None, "x.txt: unknown kind of file; expected .tsv, .csv or .jsonl"),
        ("x.tsv", b"a\tb\n\nc\n", None, "x.tsv:3: 1 column(s), expected at least 2"),
        ("x.tsv", b"a\tb\r\nc\td\r\n\r\n\r\ne\r\n", None, "x.tsv:5: 1 column(s), expected at least 2"),
        ("x.csv", b"a,\"b\nb\"\n\nc\n", None, "x.csv:4: 1 column(s), expected at least 2"),
        ("x.tsv", b"a\tb\nc\t \n", None, "x.tsv:2: the second side of the pair is empty"),
        ("x.csv", b"a,b\n,d\n", None, "x.csv:2: the first side of the pair is empty"),
        ("x.tsv", b"a\tb\nc\td\nma\xffji\tx\n", None, "x.tsv:3: not UTF-8; save the file as UTF-8"),
        ("x.csv", b"sw,fr\na,b\n", Some(["sw", "en"]), "x.csv:1: no column en; there are sw, fr"),
        ("x.csv", b"sw,fr,en\na,b,c\na,b\n", Some(["sw", "en"]), "x.csv:3: 2 column(s), expected at least 3"),
        ("x.tsv", b"", None, "x.tsv: no pairs; expected two columns, or JSON lines with source and target"),
        (
            "x.tsv",
            b"source\ttarget\n",
            None,
            "x.tsv: no pairs; expected two columns, or JSON lines with source and target",
        ),
        (
            "x.jsonl",
            b"{\"source\":\"a\",\"target\":\"b\"}\n[1]\n",
            None,
            "x.jsonl:2: not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
        ),
        ("x.jsonl", b"{\"source\":\"a\",\"target\":\"b\"}\n\n{\"source\":\"a\"}\n", None, "x.jsonl:3: no key target"),
        ("x.jsonl", b"{\"source\":\"a\",\"target\":1}\n", None, "x.jsonl:1: target is 1, expected a string"),
        ("x.jsonl", b"{\"source\":\"a\"}\n", None, "x.jsonl:1: 1 key(s), expected source and target"),
        ("x.jsonl", b"{\"a\":\"a\",\"b\":\"b\"}\n", Some(["a", "c"]), "x.jsonl:1: no key c"),
    ];
    for (name, text, columns, message) in cases {
        let (folder, pairs) = read_text(name, text, *columns);
        assert_eq!(words(pairs.unwrap_err(), folder.path()), *message);
    }
    let folder = tempfile::tempdir().unwrap();
    let error = read(&folder.path().join("absent.tsv"), None).unwrap_err();
    assert_eq!(words(error, folder.path()), "absent.tsv: No such file or directory (os error 2)");
}

/// Sources with one to three targets, targets with one or two sources.
fn dictionary(n: usize) -> Vec<Pair> {
    (0..n).map(|i| pair(&format!("s{}", i - i % 4 / 2), &format!("t{}", i % (n - n / 8)))).collect()
}

#[test]
fn groups_share_no_word() {
    let pairs = dictionary(400);
    let fractions = [0.8, 0.1, 0.1];
    let result = split(&pairs, 7, &fractions).unwrap();
    let kept: usize = result.groups.iter().map(Vec::len).sum();
    assert_eq!(kept + result.straddling, pairs.len());
    assert!(result.straddling < 40, "{} pairs lost", result.straddling);
    for (group, fraction) in result.groups.iter().zip(fractions) {
        let share = group.len() as f64 / kept as f64;
        assert!((share - fraction).abs() < 0.03, "{share} of the pairs, expected {fraction}");
    }
    for side in [|p: &Pair| p.source.clone(), |p: &Pair| p.target.clone()] {
        let words: Vec<HashSet<String>> = result.groups.iter().map(|g| g.iter().map(side).collect()).collect();
        assert!(words[0].is_disjoint(&words[1]) && words[0].is_disjoint(&words[2]) && words[1].is_disjoint(&words[2]));
    }
}

#[test]
fn a_split_depends_on_the_seed_and_not_on_the_order() {
    let pairs = dictionary(200);
    let result = split(&pairs, 7, &[0.5, 0.5]).unwrap();
    assert_ne!(split(&pairs, 8, &[0.5, 0.5]).unwrap(), result);
    let reversed: Vec<Pair> = pairs.iter().rev().cloned().collect();
    let mut backwards = split(&reversed, 7, &[0.5, 0.5]).unwrap();
    backwards.groups.iter_mut().for_each(|group| group.reverse());
    assert_eq!(backwards, result);
}

#[test]
fn a_straddling_pair_is_left_out() {
    // A square of words always closes; its diagonal may straddle, and whatever does is counted.
    let pairs = [pair("a", "x"), pair("b", "y"), pair("a", "y"), pair("b", "x")];
    let lost: Vec<usize> = (0..20).map(|seed| split(&pairs, seed, &[0.5, 0.5]).unwrap().straddling).collect();
    assert!(lost.contains(&0) && lost.contains(&2), "{lost:?}");
}

#[test]
fn fractions_must_add_up() {
    for fractions in [&[0.5, 0.4][..], &[], &[1.5, -0.5], &[f64::NAN, 1.0]] {
        let error = split(&[pair("a", "b")], 1, fractions).unwrap_err().to_string();
        let expected = "do not split anything; expected positive numbers that add up to 1";
        assert_eq!(error, format!("fractions {fractions:?} {expected}"));
    }
}
