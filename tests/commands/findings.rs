//! The tables of docs/findings.md are what its JSON files say.

use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// `0.010 [0.005, 0.018]`.
fn estimate(value: &Value, signed: bool) -> String {
    let [value, low, high] = ["value", "low", "high"].map(|key| {
        let number = value[key].as_f64().unwrap();
        if signed { format!("{number:+.3}") } else { format!("{number:.3}") }
    });
    format!("{value} [{low}, {high}]")
}

fn rows<'a>(findings: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    findings[name].as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn p(value: &Value) -> String {
    match value.as_f64().unwrap() {
        p if p < 0.001 => "< 0.001".into(),
        p => format!("{p:.3}"),
    }
}

/// The primary endpoint, arm by arm, and `lora@2` less each.
fn primary(findings: &Value) -> String {
    let mut table =
        "| arm | base | accuracy@1 | gain | p | lora@2 less it | p |\n|---|---|---|---|---|---|---|\n".to_string();
    for gain in rows(findings, "gains").filter(|g| g["endpoint"] == findings["primary"]) {
        let arm = text(&gain["arm"]);
        let duel = rows(findings, "duels").find(|d| d["arms"][1] == gain["arm"]);
        let (less, of) = duel
            .map_or(("".into(), "".into()), |d| (estimate(&d["accuracy"]["estimate"], true), p(&d["accuracy"]["p"])));
        let seeds = match gain["gain"]["seeds"].as_u64().unwrap() {
            5 => String::new(),
            other => format!(" ({other} seeds)"),
        };
        let base = gain["base"]["value"].as_f64().unwrap();
        let (accuracy, change) = (estimate(&gain["accuracy"], false), estimate(&gain["gain"]["estimate"], true));
        let of_gain = p(&gain["gain"]["p"]);
        writeln!(table, "| {arm}{seeds} | {base:.3} | {accuracy} | {change} | {of_gain} | {less} | {of} |").unwrap();
    }
    table
}

/// Gains on other endpoints and on the control words, where data, view, passages and vectors are these.
fn secondary(findings: &Value) -> String {
    let endpoints = [
        ("XQuAD", "english", "en", "cross-fitted"),
        ("XQuAD", "own", "own", "plain"),
        ("XQuAD", "own", "own", "cross-fitted"),
        ("AfriQA", "english", "en + 240", "cross-fitted"),
    ];
    let mut table =
        "| arm | over English, centred | over its own | over its own, centred | AfriQA + 240, centred | control words, P@1 |\n"
            .to_string();
    table += "|---|---|---|---|---|---|\n";
    let cell = |base: &Value, gain: &Value| format!("{:.3} {}", base.as_f64().unwrap(), estimate(gain, true));
    for word in rows(findings, "words") {
        let of_endpoint = |(data, view, paragraphs, vectors): (&str, &str, &str, &str)| {
            let is = |e: &Value| {
                e["data"] == data
                    && e["view"] == view
                    && e["paragraphs"] == paragraphs
                    && e["vectors"] == vectors
                    && e["passages"] == "alone"
            };
            let gain = rows(findings, "gains").find(|g| g["arm"] == word["arm"] && is(&g["endpoint"]));
            gain.map_or("".into(), |g| cell(&g["base"]["value"], &g["gain"]["estimate"]))
        };
        let cells = endpoints.map(of_endpoint).join(" | ");
        let words = cell(&word["base"], &word["gain"]["estimate"]);
        writeln!(table, "| {} | {cells} | {words} |", text(&word["arm"])).unwrap();
    }
    table
}

/// Replaces what is between two marks.
fn with(page: &str, mark: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/findings.md has no {mark}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("docs/findings.md has no end of {mark}"));
    format!("{before}{begin}{table}{end}{after}")
}

#[test]
fn findings_are_what_their_json_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    if !docs.join("findings").is_dir() {
        return; // The tests alone, on a machine without the source.
    }
    let path = docs.join("findings.md");
    let known = fs::read_to_string(&path).unwrap();
    let mut now = known.clone();
    let mut files = 0;
    for entry in fs::read_dir(docs.join("findings")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let language = file.file_stem().unwrap().to_str().unwrap().to_string();
        let findings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        now = with(&now, &format!("{language}, primary"), &primary(&findings));
        now = with(&now, &format!("{language}, secondary"), &secondary(&findings));
        now = with(&now, &format!("{language}, verdict"), &format!("> {}\n", text(&findings["verdict"])));
        files += 1;
    }
    assert!(files > 0);
    if std::env::var("KIUNGO_REFERENCE").is_ok_and(|v| v == "write") {
        fs::write(&path, &now).unwrap();
        return;
    }
    let stale = known.lines().zip(now.lines()).find(|(a, b)| a != b);
    let remedy = "KIUNGO_REFERENCE=write cargo test --release findings_are, and commit it";
    assert!(known == now, "docs/findings.md is stale: {remedy}; first at {stale:?}");
}
