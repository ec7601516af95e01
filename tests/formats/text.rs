use kiungo::formats::text::{Orthography, nfc, normalise};

#[test]
fn romanian_cedillas_become_commas_below() {
    let romanian = Orthography::Romanian;
    assert_eq!(normalise("ţânţar Şi ŢAR ş", romanian), ("țânțar Și ȚAR ș".into(), 5));
    // A letter and a combining cedilla compose to the same.
    assert_eq!(normalise("s\u{327}i t\u{326}ar", romanian), ("și țar".into(), 1));
    assert_eq!(normalise("başkan", Orthography::General), ("başkan".into(), 0));
}

#[test]
fn texts_are_composed() {
    assert_eq!(nfc("tie\u{302}\u{301}ng"), "tiếng");
    assert_eq!(normalise("tie\u{302}\u{301}ng", Orthography::General).0, "tiếng");
}

#[test]
fn romanian_is_known_by_name_or_by_its_letters() {
    for name in ["ro", "RO", "ron_Latn", "ro-MD", "Romanian"] {
        assert_eq!(Orthography::of_language(name), Orthography::Romanian, "{name}");
    }
    for name in ["tr", "roa", "english", ""] {
        assert_eq!(Orthography::of_language(name), Orthography::General, "{name}");
    }
    assert_eq!(Orthography::detect(["casă", "t\u{327}ar"]), Orthography::Romanian);
    assert_eq!(Orthography::detect(["casă", "şi"]), Orthography::General);
}
