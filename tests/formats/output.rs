use super::words;
use kiungo::formats::output::{NewFile, create_new, write_file};
use std::fs;
use std::io::Write;

#[test]
fn a_new_folder_must_be_empty() {
    let folder = tempfile::tempdir().unwrap();
    let nested = folder.path().join("a/b");
    create_new(&nested).unwrap();
    create_new(&nested).unwrap();
    fs::write(nested.join("old"), "").unwrap();
    let error = create_new(&nested).unwrap_err();
    let expected = "a/b: not empty (it holds old); name a new folder, or empty this one";
    assert_eq!(words(error, folder.path()), expected);
    let error = create_new(&nested.join("old")).unwrap_err();
    assert_eq!(words(error, folder.path()), "a/b/old: File exists (os error 17)");
}

#[test]
fn a_file_is_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    write_file(&path, "first").unwrap();
    let mut file = NewFile::create(&path).unwrap();
    file.write_all(b"half of the sec").unwrap();
    file.flush().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    drop(file);
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    write_file(&path, "second").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    let error = write_file(&folder.path().join("absent/x"), "").unwrap_err();
    assert!(words(&error, folder.path()).starts_with("absent/x: No such file or directory"), "{error}");
}
