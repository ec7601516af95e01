//! The command reference is what `--help` says.

use assert_cmd::Command;
use std::path::Path;

fn help(arguments: &[&str]) -> String {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    // Help is as wide as the terminal, where there is one.
    command.env("COLUMNS", "100").args(arguments);
    let output = command.assert().success().get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_string()
}

/// Names of the subcommands, and what each is for.
fn commands() -> Vec<(String, String)> {
    let all = help(&["--help"]);
    let lines = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut found: Vec<(String, String)> = vec![];
    for line in lines {
        match (line.strip_prefix("  ").filter(|l| !l.starts_with(' ')), found.last_mut()) {
            (Some(line), _) => {
                let (name, what) = line.split_once(' ').unwrap();
                found.push((name.into(), what.trim().into()));
            }
            (None, Some((_, what))) => *what += &format!(" {}", line.trim()),
            (None, None) => {}
        }
    }
    found.retain(|(name, _)| name != "help");
    found
}

fn reference() -> String {
    let mut text = "# Commands\n\nWhat `kiungo COMMAND --help` says. Made by `KIUNGO_REFERENCE=write cargo test --release command_reference`.\n".to_string();
    for (name, _) in commands() {
        text += &format!("\n## kiungo {name}\n\n```text\n{}\n```\n", help(&[&name, "--help"]));
    }
    text
}

/// The part of the README between the marks, with a line a command.
fn in_readme(readme: &str) -> String {
    let (begin, end) = ("<!-- commands: begin -->\n", "<!-- commands: end -->");
    let (before, rest) = readme.split_once(begin).expect("README.md has the mark");
    let (_, after) = rest.split_once(end).expect("README.md has the mark");
    let row =
        |(name, what): (String, String)| format!("| [`kiungo {name}`](docs/commands.md#kiungo-{name}) | {what} |\n");
    let rows: String = commands().into_iter().map(row).collect();
    format!("{before}{begin}| command | |\n|---|---|\n{rows}{end}{after}")
}

#[test]
fn command_reference_is_what_help_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("README.md").exists() {
        return; // The tests alone, on a machine without the source.
    }
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for (name, now) in [("docs/commands.md", reference()), ("README.md", in_readme(&readme))] {
        let path = root.join(name);
        if std::env::var("KIUNGO_REFERENCE").is_ok_and(|v| v == "write") {
            std::fs::write(&path, &now).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        let stale = known.lines().zip(now.lines()).find(|(a, b)| a != b);
        assert!(
            known == now,
            "{name} is stale: KIUNGO_REFERENCE=write cargo test --release command_reference, and commit it; first at {stale:?}"
        );
    }
}
