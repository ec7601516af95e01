use kiungo::report::Table;

#[test]
fn numbers_align_right_and_wide_characters_count_double() {
    let mut table = Table::new(["language", "P@1", "interval"]).caption("Retrieval");
    table.row(["Kiswahili", "0.067", "[0.03, 0.11]"]).row(["中文", "-0.5", "–"]).row(["ro"]);
    let expected = "\
Retrieval
language     P@1      interval
─────────  ─────  ────────────
Kiswahili  0.067  [0.03, 0.11]
中文        -0.5             –
ro
";
    assert_eq!(table.to_string(), expected);
}

#[test]
fn a_column_of_numbers_may_hold_units_intervals_and_gaps() {
    let aligned = |cells: &[&str]| {
        let mut table = Table::new(["a heading longer than all cells"]);
        cells.iter().for_each(|c| _ = table.row([*c]));
        table.to_string().lines().nth(2).unwrap().starts_with(' ')
    };
    assert!(aligned(&["0.41 [0.38, 0.44]", "", "-"]));
    assert!(aligned(&["1.3e-240", "<0.001", "+0.3", "−0.3"]));
    assert!(aligned(&["1.5 GB", "54.9 (622)", "28 %", "1190"]));
    assert!(!aligned(&["16", "q_proj"]));
    assert!(!aligned(&["4-bit NormalFloat"]));
    assert!(!aligned(&["–", ""]), "nothing but gaps");
}

#[test]
fn odd_tables_print() {
    assert_eq!(Table::default().to_string(), "");
    let mut headless = Table::default();
    headless.row(["a", "1"]).row(["b"]).row(["c", "30", "more"]);
    assert_eq!(headless.to_string(), "a   1\nb\nc  30  more\n");
    assert_eq!(Table::new(["x"]).to_string(), "x\n─\n");
}
