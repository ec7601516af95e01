//! Every truncation and many flipped bytes of small files: readers may refuse them, and must not panic.

use crate::support;
use kiungo::formats::peft::Adapter;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::squad::Dataset;
use kiungo::formats::{kiungo_json::Record, pairs, tokenizer::Tokenizer};
use kiungo::llama::config::Config;
use std::fs;
use std::path::Path;

/// The file cut at every length, and with each byte replaced by others.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<'_> {
    let cut = (0..bytes.len()).map(|n| bytes[..n].to_vec());
    let flipped = (0..bytes.len()).flat_map(move |i| {
        [0xFF, b'"', b'9', bytes[i] ^ 1].map(|byte| {
            let mut bytes = bytes.to_vec();
            bytes[i] = byte;
            bytes
        })
    });
    cut.chain(flipped)
}

fn survive(name: &str, bytes: &[u8], read: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    for bytes in damaged(bytes) {
        fs::write(folder.path().join(name), bytes).unwrap();
        read(folder.path());
    }
}

#[test]
fn safetensors() {
    let header = r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 12]].concat();
    survive("model.safetensors", &bytes, |folder| {
        if let Ok(checkpoint) = Checkpoint::open(folder) {
            let names: Vec<String> = checkpoint.tensors().map(|(name, _)| name.into()).collect();
            names.iter().for_each(|name| drop(checkpoint.read_f32(name)));
            drop(checkpoint.identity());
        }
    });
}

#[test]
fn settings() {
    let config = fs::read(support::path("golden/tiny-llama/config.json")).unwrap();
    for bytes in damaged(&config) {
        drop(Config::parse(Path::new("config.json"), &String::from_utf8_lossy(&bytes)));
    }
    let tiny = Config::open(&support::path("golden/tiny-llama")).unwrap();
    let adapter = br#"{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]}"#;
    survive("adapter_config.json", adapter, |folder| drop(Adapter::open(folder, &tiny)));
    survive("kiungo.json", br#"{"version": "0.1.0", "base_model": "x", "seed": 1}"#, |f| drop(Record::open(f)));
    let index = br#"{"weight_map": {"a": "model.safetensors"}}"#;
    survive("model.safetensors.index.json", index, |folder| drop(Checkpoint::open(folder)));
    let tokenizer =
        br#"{"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "b": 1}}, "added_tokens": []}"#;
    survive("tokenizer.json", tokenizer, |folder| {
        if let Ok(tokenizer) = Tokenizer::open(folder, &tiny) {
            drop(tokenizer.encode("a b", Default::default(), 8));
        }
    });
}

#[test]
fn data() {
    let json = r#"{"data": [{"title": "t", "paragraphs": [{"context": "ț", "qas": [{"id": "1", "question": "q"}]}]}]}"#;
    survive("x.json", json.as_bytes(), |folder| drop(Dataset::open(&folder.join("x.json"), "ro")));
    survive("x.tsv", "source\ttarget\nţânţar\tgnat\n".as_bytes(), |f| drop(pairs::read(&f.join("x.tsv"), None)));
    survive("x.csv", "a,\"b\"\"c\nd\",e\nf,g\n".as_bytes(), |folder| drop(pairs::read(&folder.join("x.csv"), None)));
    let lines = "{\"source\":\"a\",\"target\":\"b\"}\n{\"source\":\"c\",\"target\":\"d\"}\n";
    survive("x.jsonl", lines.as_bytes(), |folder| drop(pairs::read(&folder.join("x.jsonl"), None)));
}
