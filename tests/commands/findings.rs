//! The tables of docs/findings.md are what its JSON files say.

use kiungo::retrieval::comparison::holm;
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

/// What needs no training, on the primary endpoint.
fn baselines(findings: &Value) -> String {
    let mut table = "| without training | layer | accuracy@1 |\n|---|---|---|\n".to_string();
    for b in rows(findings, "baselines") {
        writeln!(table, "| {} | {} | {} |", text(&b["name"]), text(&b["layer"]), estimate(&b["accuracy"], false))
            .unwrap();
    }
    table
}

/// The languages in which an arm's gain or loss is shown, by Holm's p and the interval.
fn languages(findings: &Value) -> String {
    let mut table =
        "| arm | languages with a gain or loss that is shown: base, then after training |\n|---|---|\n".to_string();
    for training in rows(findings, "training") {
        let shown = |l: &&Value| {
            let [low, high] = ["low", "high"].map(|end| l["gain"]["estimate"][end].as_f64().unwrap());
            l["arm"] == training["arm"] && l["holm"].as_f64().unwrap() < 0.05 && (low > 0.0 || high < 0.0)
        };
        let in_words = |l: &Value| {
            let [base, after] = ["base", "accuracy"].map(|key| l[key].as_f64().unwrap());
            format!("{} {base:.3}, {after:.3}", text(&l["language"]))
        };
        let found: Vec<String> = rows(findings, "languages").filter(shown).map(in_words).collect();
        let found = if found.is_empty() { "none".into() } else { found.join("; ") };
        writeln!(table, "| {} | {found} |", text(&training["arm"])).unwrap();
    }
    table
}

/// What was trained, at which rate, and what it did besides.
fn training(findings: &Value) -> String {
    let mut table = "| arm | learning rate | parameters | loss | seeds' accuracy@1 | collapsed | perplexity | seconds | held |\n|---|---|---|---|---|---|---|---|---|\n".to_string();
    for t in rows(findings, "training") {
        let rate = t["learning_rate"].as_f64().map_or("-".into(), |rate| format!("{rate:e}"));
        let edge = t["edge"].as_str().map_or(String::new(), |edge| format!(" ({edge} tried)"));
        let losses: Vec<f64> = t["losses"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let seeds: Vec<String> =
            t["accuracies"].as_array().unwrap().iter().map(|a| format!("{:.4}", a.as_f64().unwrap())).collect();
        let of_seeds = format!("{} of {}", t["collapsed"], seeds.len());
        let perplexity = match &t["perplexity"] {
            Value::Null => "-".into(),
            both => format!("{:.2}, {:.2}", both[0].as_f64().unwrap(), both[1].as_f64().unwrap()),
        };
        let seconds = t["seconds"].as_f64().unwrap();
        let held = t["peak"].as_f64().map_or("-".into(), |bytes| format!("{:.2} GB", bytes / 1e9));
        let (arm, parameters, seeds) = (text(&t["arm"]), &t["parameters"], seeds.join(", "));
        writeln!(
            table,
            "| {arm} | {rate}{edge} | {parameters} | {loss:.3} | {seeds} | {of_seeds} | {perplexity} | {seconds:.1} | {held} |"
        )
        .unwrap();
    }
    table
}

/// `lora@2` against `full@final` in every language, and what follows over all of them.
fn answer(all: &[(String, Value)]) -> String {
    let duel = |findings: &'_ Value| -> Value {
        let asked = |d: &&Value| d["arms"][0] == "lora@2" && d["arms"][1] == "full@final";
        rows(findings, "duels").find(asked).unwrap()["accuracy"].clone()
    };
    let duels: Vec<Value> = all.iter().map(|(_, findings)| duel(findings)).collect();
    let adjusted = holm(&duels.iter().map(|d| d["p"].as_f64().unwrap()).collect::<Vec<_>>());
    let mut table = "| pairs | base at 2, at `final` | lora@2 | full@final | lora@2 less full@final | p | p by Holm | would be missed below |\n|---|---|---|---|---|---|---|---|\n".to_string();
    let mut shown = [0, 0];
    for (((language, findings), duel), holm) in all.iter().zip(&duels).zip(adjusted) {
        let of = |arm: &str| {
            let primary = |g: &&Value| g["endpoint"] == findings["primary"] && g["arm"] == arm;
            rows(findings, "gains").find(primary).unwrap()
        };
        let (lora, full) = (of("lora@2"), of("full@final"));
        let base = [lora, full].map(|g| format!("{:.3}", g["base"]["value"].as_f64().unwrap())).join(", ");
        let after =
            |g: &Value| format!("{} {}", estimate(&g["accuracy"], false), estimate(&g["gain"]["estimate"], true));
        let difference = estimate(&duel["estimate"], true);
        let [low, high] = ["low", "high"].map(|end| duel["estimate"][end].as_f64().unwrap());
        shown[0] += usize::from(low > 0.0 && holm < 0.05);
        shown[1] += usize::from(high < 0.0 && holm < 0.05);
        let (p_alone, p_holm) = (p(&duel["p"]), p(&Value::from(holm)));
        let (lora, full, missed) = (after(lora), after(full), duel["detectable"].as_f64().unwrap());
        writeln!(
            table,
            "| {language} | {base} | {lora} | {full} | {difference} | {p_alone} | {p_holm} | {missed:.3} |"
        )
        .unwrap();
    }
    let [lora, full] = shown;
    let mut said = format!(
        "A difference between `lora@2` and `full@final` is shown in {} of {} languages",
        lora + full,
        all.len()
    );
    if lora + full > 0 {
        write!(said, ": `lora@2` retrieves better in {lora}, `full@final` in {full}").unwrap();
    }
    format!("{table}\n**{said}.** (An interval and its p, by Holm's method over the languages, must agree.)\n")
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
    let mut all = vec![];
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
        if findings["training"].is_array() {
            now = with(&now, &format!("{language}, languages"), &languages(&findings));
            now = with(&now, &format!("{language}, training"), &training(&findings));
            now = with(&now, &format!("{language}, without training"), &baselines(&findings));
        }
        all.push((language, findings));
    }
    assert!(!all.is_empty());
    all.sort_by(|a, b| a.0.cmp(&b.0));
    now = with(&now, "answer", &answer(&all));
    if std::env::var("KIUNGO_REFERENCE").is_ok_and(|v| v == "write") {
        fs::write(&path, &now).unwrap();
        return;
    }
    let stale = known.lines().zip(now.lines()).find(|(a, b)| a != b);
    let remedy = "KIUNGO_REFERENCE=write cargo test --release findings_are, and commit it";
    assert!(known == now, "docs/findings.md is stale: {remedy}; first at {stale:?}");
}
