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
