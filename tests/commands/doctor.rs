//! `kiungo doctor`: ok, or a problem with its remedy; the exit code says which.

use assert_cmd::Command;

/// Standard output, and the exit code. `hidden`: from no GPU is anything seen.
fn doctor(hidden: bool) -> (String, i32) {
    let mut command = Command::cargo_bin("kiungo").unwrap();
    command.arg("doctor");
    if hidden {
        command.env("CUDA_VISIBLE_DEVICES", "");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (format!("{said}{}", String::from_utf8(output.stderr).unwrap()), output.status.code().unwrap())
}

#[test]
fn each_problem_has_a_remedy() {
    for hidden in [false, true] {
        let (said, code) = doctor(hidden);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("kiungo ") && lines[1].starts_with("ok       CPU "), "{said}");
        let problems: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].starts_with("problem ")).collect();
        for &i in &problems {
            assert!(lines[i + 1].starts_with("         remedy: "), "{said}");
        }
        assert_eq!(code, i32::from(!problems.is_empty()), "{said}");
        assert!(!hidden || code == 1, "{said}");
        if let Some(last) = problems.last() {
            assert_eq!(lines.len(), last + 3, "{said}");
            assert!(lines[last + 2].starts_with(&format!("error: {} problem", problems.len())), "{said}");
        }
    }
}

/// Files that a run would read, and the disk that it would write to, are looked at too.
#[test]
fn files_and_the_disk_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let input = kiungo::training::builtin::write_to(folder.path(), 1).unwrap();
    let doctor = || {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.arg("doctor").arg("--model").arg(&input.model).arg("--pairs").arg(&input.pairs);
        let output = command.arg("--xquad").arg(&input.xquad).arg("--output").arg(folder.path()).output().unwrap();
        // Each problem counts: without a GPU there are some anyway.
        let said = String::from_utf8(output.stdout).unwrap();
        let problems = said.lines().filter(|line| line.starts_with("problem ")).count();
        assert_eq!(output.status.code(), Some(i32::from(problems > 0)), "{said}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(problems == 0 || error.starts_with(&format!("error: {problems} problem")), "{error}\n{said}");
        said
    };
    let said = doctor();
    for expected in [
        "ok       model         4 blocks of 128 features; 38 tensors, 1.54 MB",
        "ok       pairs         310 pairs",
        "ok       questions     SQuAD: 72 in en, sw, over 24 passages",
    ] {
        assert!(said.lines().any(|line| line == expected), "{expected}\n{said}");
    }
    assert!(said.contains("disk          "), "{said}");
    std::fs::write(&input.pairs, "one\n").unwrap();
    let expected = format!("problem  pairs         {}:1: 1 column(s), expected at least 2", input.pairs.display());
    assert!(doctor().contains(&expected), "{}", doctor());
    std::fs::remove_file(input.model.join("model.safetensors")).unwrap();
    std::fs::remove_dir_all(&input.xquad).unwrap();
    let said = doctor();
    for problem in ["problem  model ", "problem  pairs ", "problem  questions "] {
        assert!(said.contains(problem), "{problem}\n{said}");
    }
    let nowhere = folder.path().join("nowhere");
    let output = Command::cargo_bin("kiungo").unwrap().arg("doctor").arg("--output").arg(&nowhere).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("problem  disk          {}: No such file", nowhere.display())), "{said}");
}
