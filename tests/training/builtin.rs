use kiungo::formats::safetensors::Checkpoint;
use kiungo::llama::config::Config;
use kiungo::training::builtin::{self, Builtin};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use tokenizers::Tokenizer;

fn written(folder: &Path) -> Builtin {
    builtin::write_to(folder, builtin::SEED).unwrap()
}

/// SHA-256 of the files' names and contents, in the order of their names.
fn digest(folder: &Path) -> String {
    let mut files = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.strip_prefix(folder).unwrap().to_str().unwrap());
        hash.update(fs::read(&file).unwrap());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    // Changes only on purpose: figures that were taken on the built-in model go with it.
    assert_eq!(digest(folder.path()), "0b2c1d94a6245a8b1600df93d3360e388bae6a6443a023cbff776bbebf9e9341");
    let other = tempfile::tempdir().unwrap();
    builtin::write_to(other.path(), 2).unwrap();
    assert_ne!(digest(folder.path()), digest(other.path()));
}

#[test]
fn the_checkpoint_has_what_its_config_says() {
    let folder = tempfile::tempdir().unwrap();
    let model = written(folder.path()).model;
    let (config, checkpoint) = (Config::open(&model).unwrap(), Checkpoint::open(&model).unwrap());
    let hidden = config.hidden_size;
    checkpoint.expect_shape("model.embed_tokens.weight", &[config.vocab_size, hidden]).unwrap();
    assert_eq!(checkpoint.tensors().count(), 2 + 9 * config.layers);
}

#[test]
fn words_are_pairs_and_none_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(written(folder.path()).pairs).unwrap();
    let rows: Vec<(&str, &str)> = text.lines().map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(rows[0], ("swahili", "english"));
    let (swahili, english): (HashSet<_>, HashSet<_>) = rows[1..].iter().copied().unzip();
    assert_eq!(rows.len(), 311);
    assert_eq!((swahili.len(), english.len()), (310, 310));
}

#[test]
fn questions_are_parallel_and_their_answers_lie_where_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let xquad = written(folder.path()).xquad;
    let ids = builtin::LANGUAGES.map(|language| {
        let text = fs::read_to_string(xquad.join(format!("xquad.{language}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut ids = vec![];
        for article in json["data"].as_array().unwrap() {
            let paragraph = &article["paragraphs"][0];
            let context = paragraph["context"].as_str().unwrap();
            for qa in paragraph["qas"].as_array().unwrap() {
                let answer = &qa["answers"][0];
                let start = answer["answer_start"].as_u64().unwrap() as usize;
                let rest: String = context.chars().skip(start).collect();
                assert!(rest.starts_with(answer["text"].as_str().unwrap()), "{answer} in {context}");
                ids.push(qa["id"].as_str().unwrap().to_string());
            }
        }
        ids
    });
    assert_eq!(ids[0].len(), 36);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn the_tokenizer_gives_every_byte_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_file(written(folder.path()).model.join("tokenizer.json")).unwrap();
    let text = "Ng'ombe, ț și 5 €\n\0";
    let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.token_to_id("<bos>"), Some(256));
    assert_eq!(tokenizer.get_vocab_size(true), 258);
}
