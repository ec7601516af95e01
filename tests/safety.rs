//! What the compiler does not check of the source: that every call of the CUDA driver is looked at. That `unsafe` stays in
//! the device layer is denied in `src/lib.rs`, too, but for what bindgen makes.

use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|x| x == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// Where the source is; None on a machine that has only the tests.
fn root() -> Option<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("src/lib.rs").exists().then_some(root)
}

/// Code without its comments, line by line.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether a word stands in a line of code, as a word.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn unsafe_stays_in_the_device_layer_with_a_reason_at_each_place() {
    let Some(root) = root() else { return };
    let mut wrong = vec![];
    let mut seen = 0;
    for (path, text) in sources(&root.join("src")) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, _) in code(&text).filter(|(_, line)| has_word(line, "unsafe") && !line.contains("(unsafe_code)")) {
            seen += 1;
            let place = format!("{}:{number}", path.strip_prefix(root).unwrap().display());
            let above = &lines[number.saturating_sub(8)..number];
            if !path.starts_with(root.join("src/device")) {
                wrong.push(format!("{place}: outside the device layer"));
            } else if !above.iter().any(|line| line.contains("SAFETY: ") || line.contains("# Safety")) {
                wrong.push(format!("{place}: no reason"));
            }
        }
    }
    assert!(seen > 20, "only {seen} places were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every result of the driver is looked at, but for those of giving back in a `drop`, where nobody could be told.
#[test]
fn every_call_of_the_driver_is_checked() {
    let Some(root) = root() else { return };
    const GIVES_BACK: [&str; 6] =
        ["cuGraphDestroy", "cuGraphExecDestroy", "cuMemHostUnregister", "free_async", "free_sync", "free_host"];
    let mut wrong = vec![];
    let mut calls = 0;
    for (path, text) in sources(&root.join("src/device")) {
        let lines: Vec<(usize, &str)> = code(&text).collect();
        for (at, (number, line)) in lines.iter().enumerate() {
            let place = format!("{}:{number}", path.strip_prefix(root).unwrap().display());
            let gives_back = GIVES_BACK.iter().any(|name| line.contains(name));
            if line.contains("sys::cu") && line.contains('(') && !line.contains("CU_") && !gives_back {
                calls += 1;
                // The call may go over many lines.
                let until_next = lines[at + 1..].iter().take_while(|(_, line)| !line.contains("sys::cu"));
                let looked_at = [&lines[at]].into_iter().chain(until_next).any(|(_, line)| line.contains(".result()"));
                let passed_on = lines[at.saturating_sub(1)..=at].iter().any(|(_, line)| line.contains("self.node("));
                if !looked_at && !passed_on {
                    wrong.push(format!("{place}: the result of the call is not looked at"));
                }
            }
            if line.contains("let _ = unsafe") && !gives_back {
                wrong.push(format!("{place}: the result of the call is dropped"));
            }
        }
    }
    assert!(calls >= 10, "only {calls} calls were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
