use super::words;
use crate::support;
use kiungo::formats::kiungo_json::{Identity, Record};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::Bos;
use kiungo::llama::config::Config;
use std::fs;
use std::path::Path;

fn record(base: &Checkpoint) -> Record {
    Record {
        version: "0.1.0".into(),
        base_model: "tiny-llama".into(),
        base_identity: Identity::of(base).unwrap(),
        base: "nf4-double".into(),
        method: "lora".into(),
        target: "2".into(),
        training_pooling: "mean".into(),
        pooling: "mean-no-sink".into(),
        bos: Bos::Add,
        max_length: 256,
        seed: u64::MAX,
    }
}

/// A copy of the small model, with its settings' text changed.
fn copy(folder: &Path, edit: impl Fn(String) -> String) -> Checkpoint {
    let golden = support::path("golden/tiny-llama");
    fs::create_dir_all(folder).unwrap();
    fs::copy(golden.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("config.json"), edit(fs::read_to_string(golden.join("config.json")).unwrap())).unwrap();
    Checkpoint::open(folder).unwrap()
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Record::open_if_present(folder.path()).unwrap(), None);
    let record = record(&Checkpoint::open(&support::path("golden/tiny-llama")).unwrap());
    record.write(folder.path()).unwrap();
    assert_eq!(Record::open(folder.path()).unwrap(), record);
    assert_eq!(Record::open_if_present(folder.path()).unwrap(), Some(record));
}

#[test]
fn another_base_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy(&folder.path().join("base"), |text| text);
    let record = record(&base);
    let check = |base: &Checkpoint| record.check_base(base, &folder.path().join("adapter"));
    check(&base).unwrap();
    check(&copy(&folder.path().join("same"), |text| text.replace("5.17.0", "6.0.0"))).unwrap();

    let expect = |base: &Checkpoint, name: &str, what: &str| {
        let error = words(check(base).unwrap_err(), folder.path());
        let tail = format!("has other {what}; give the base it was trained on");
        assert_eq!(error, format!("adapter/kiungo.json: trained on tiny-llama, and {name} {tail}"));
    };
    let other = copy(&folder.path().join("theta"), |text| text.replace("500000.0", "10000.0"));
    assert_eq!(Config::open(other.path()).unwrap().rope_theta, 10000.0);
    expect(&other, "theta", "settings");
    let path = folder.path().join("weights/model.safetensors");
    copy(path.parent().unwrap(), |text| text);
    let mut bytes = fs::read(&path).unwrap();
    // The first value of the last tensor in the file: model.norm.weight.
    let place = bytes.len() - 64 * 4;
    bytes[place] ^= 1;
    fs::write(&path, bytes).unwrap();
    expect(&Checkpoint::open(path.parent().unwrap()).unwrap(), "weights", "weights");
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = words(Record::open(folder.path()).unwrap_err(), folder.path());
    assert_eq!(error, "kiungo.json: No such file or directory (os error 2)");
    for (text, message) in [
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"version\": \"0.1.0\"}", "missing field `base_model` at line 1 column 20"),
        ("[]", "invalid length 0, expected struct Record with 11 elements at line 1 column 2"),
    ] {
        fs::write(folder.path().join("kiungo.json"), text).unwrap();
        let error = words(Record::open_if_present(folder.path()).unwrap_err(), folder.path());
        assert_eq!(error, format!("kiungo.json: not a record of kiungo: {message}"));
    }
}
