//! Kinds of damage to a user's files, each with the one line that it is refused by, and nothing left behind.

use assert_cmd::cargo::CommandCargoExt;
use kiungo::training::builtin::{self, Builtin};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Input as it should be, to be damaged and put right again.
struct Input {
    folder: tempfile::TempDir,
    files: Builtin,
}

impl Input {
    fn new() -> Input {
        let folder = tempfile::tempdir().unwrap();
        let files = builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
        let input = Input { folder, files };
        input.adapter();
        input
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An adapter of rank 2 for one projection of block 0.
    fn adapter(&self) {
        let folder = self.path("in/adapter");
        fs::create_dir(&folder).unwrap();
        let settings = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]});
        fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
        let name = |factor| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight");
        let header = json!({
            name("A"): {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512]},
            name("B"): {"dtype": "F32", "shape": [64, 2], "data_offsets": [512, 1024]},
        });
        fs::write(folder.join("adapter_model.safetensors"), safetensors(&header, &[0; 1024])).unwrap();
    }

    /// The line that a run on these files ends with, with `DIR` for the folder. Nothing is left of the run.
    fn refused(&self, arguments: &[&str]) -> String {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(self.folder.path()).args(["train", "--device", "cpu", "--model"]).arg(&self.files.model);
        if !arguments.contains(&"--pairs") {
            command.arg("--pairs").arg(&self.files.pairs);
        }
        command.args(["--epochs", "1", "--layers", "2", "--stop-after", "1", "--output", "run"]).args(arguments);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).replace(&self.folder.path().display().to_string(), "DIR");
        let last = error.lines().last().unwrap_or_default().to_string();
        assert!(!error.contains("panicked"), "{error}");
        // Weights are read when the run has begun: its folder, with its configuration, stays.
        if self.path("run").exists() {
            assert!(self.path("run/config.json").exists() && !self.path("run/adapter").exists(), "{error}");
            fs::remove_dir_all(self.path("run")).unwrap();
        }
        if output.status.success() { "no error".into() } else { last }
    }
}

/// A safetensors file.
fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    raw_safetensors(header.to_string().as_bytes(), data)
}

fn raw_safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// The header of a safetensors file and its data.
fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).unwrap(), data.to_vec())
}

/// What happens to a file of the input, or to its folder.
enum Damage {
    /// Its bytes change.
    Bytes(fn(&[u8]) -> Vec<u8>),
    /// A field of its JSON changes, or goes.
    Field(&'static str, Value),
    /// The header of a safetensors file changes.
    Header(fn(&mut Value)),
    Gone,
    /// Something happens to the folder that it is in.
    Around(fn(&Path)),
}
use Damage::{Around, Bytes, Field, Gone, Header};

const CONFIG: &str = "in/model/config.json";
const TOKENIZER: &str = "in/model/tokenizer.json";
const WEIGHTS: &str = "in/model/model.safetensors";
const PAIRS: &str = "in/words.sw-en.tsv";
const ENGLISH: &str = "in/xquad/xquad.en.json";
const ADAPTER: &str = "in/adapter/adapter_config.json";
const FACTORS: &str = "in/adapter/adapter_model.safetensors";

fn text(s: &str) -> Vec<u8> {
    s.as_bytes().to_vec()
}

/// The first question set, changed.
fn squad(bytes: &[u8], change: fn(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    change(&mut value);
    text(&value.to_string())
}

fn rename(folder: &Path, name: &str) {
    fs::rename(folder.join("model.safetensors"), folder.join(name)).unwrap();
}

fn index(folder: &Path, shard: &str) {
    let index = json!({"weight_map": {"model.norm.weight": shard}});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A value at the start of a tensor's data.
fn first_value(bytes: &[u8], value: [u8; 2]) -> Vec<u8> {
    let (header, mut data) = parts(bytes);
    let start = header["model.embed_tokens.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    data[start..start + 2].copy_from_slice(&value);
    safetensors(&header, &data)
}

const NORM: &str = "model.layers.0.input_layernorm.weight";

fn cases() -> Vec<(&'static str, Damage, &'static str)> {
    vec![
        (CONFIG, Gone, ""),
        (CONFIG, Bytes(|_| vec![]), ""),
        (CONFIG, Bytes(|b| b[..b.len() / 2].to_vec()), ""),
        (CONFIG, Bytes(|_| text("[1, 2]")), ""),
        (CONFIG, Bytes(|b| [b, b"x"].concat()), ""),
        (CONFIG, Bytes(|b| [b"\xFF", b].concat()), ""),
        (CONFIG, Field("model_type", json!("mistral")), ""),
        (CONFIG, Field("hidden_size", Value::Null), ""),
        (CONFIG, Field("hidden_size", json!(0)), ""),
        (CONFIG, Field("hidden_size", json!(-64)), ""),
        (CONFIG, Field("hidden_size", json!("64")), ""),
        (CONFIG, Field("hidden_size", json!(u64::MAX)), ""),
        (CONFIG, Field("hidden_size", json!(128)), ""),
        (CONFIG, Field("intermediate_size", json!(0)), ""),
        (CONFIG, Field("num_attention_heads", json!(3)), ""),
        (CONFIG, Field("num_key_value_heads", json!(3)), ""),
        (CONFIG, Field("num_hidden_layers", json!(0)), ""),
        (CONFIG, Field("num_hidden_layers", json!(1_000_000)), ""),
        (CONFIG, Field("vocab_size", json!(10)), ""),
        (CONFIG, Field("hidden_act", json!("gelu")), ""),
        (CONFIG, Field("attention_bias", json!(true)), ""),
        (CONFIG, Field("rms_norm_eps", json!(-1)), ""),
        (CONFIG, Field("rope_theta", json!("big")), ""),
        (CONFIG, Field("rope_scaling", json!({"rope_type": "yarn", "factor": 2})), ""),
        (CONFIG, Field("quantization_config", json!({"quant_method": "gptq", "bits": 4})), ""),
        (TOKENIZER, Gone, ""),
        (TOKENIZER, Bytes(|_| vec![]), ""),
        (TOKENIZER, Bytes(|b| b[..b.len() - 2].to_vec()), ""),
        (TOKENIZER, Bytes(|_| text(r#"{"model": {"type": "Magic", "vocab": {}}}"#)), ""),
        (TOKENIZER, Bytes(|_| text(r#"{"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 5000}}, "added_tokens": []}"#)), ""),
        (WEIGHTS, Gone, ""),
        (WEIGHTS, Bytes(|_| vec![]), ""),
        (WEIGHTS, Bytes(|b| b[..7].to_vec()), ""),
        (WEIGHTS, Bytes(|_| text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")), ""),
        (WEIGHTS, Bytes(|b| [&99_000_000u64.to_le_bytes(), &b[8..]].concat()), ""),
        (WEIGHTS, Bytes(|b| [&u64::MAX.to_le_bytes(), &b[8..]].concat()), ""),
        (WEIGHTS, Bytes(|b| [b, b"x"].concat()), ""),
        (WEIGHTS, Bytes(|b| b[..b.len() - 1].to_vec()), ""),
        (WEIGHTS, Bytes(|_| raw_safetensors(b"{]", &[])), ""),
        (WEIGHTS, Bytes(|_| raw_safetensors(b"\xFF\xFE", &[])), ""),
        (WEIGHTS, Bytes(|_| raw_safetensors(b"{}", &[])), ""),
        (WEIGHTS, Bytes(|b| first_value(b, [0xC0, 0x7F])), ""),
        (WEIGHTS, Bytes(|b| first_value(b, [0x80, 0xFF])), ""),
        (WEIGHTS, Header(|h| h[NORM]["dtype"] = json!("F128")), ""),
        (WEIGHTS, Header(|h| h[NORM]["dtype"] = json!("I16")), ""),
        (WEIGHTS, Header(|h| h[NORM]["shape"] = json!([32, 2])), ""),
        (WEIGHTS, Header(|h| h[NORM]["shape"] = json!([65])), ""),
        (WEIGHTS, Header(|h| h[NORM]["shape"] = json!([1u64 << 40, 1u64 << 40])), ""),
        (WEIGHTS, Header(|h| h[NORM]["data_offsets"] = json!([0, 128])), ""),
        (WEIGHTS, Header(|h| h[NORM]["data_offsets"] = json!([u64::MAX - 127, u64::MAX])), ""),
        (WEIGHTS, Header(|h| { let norm = h.as_object_mut().unwrap().remove(NORM).unwrap(); h["other"] = norm; }), ""),
        (WEIGHTS, Around(|f| drop(fs::copy(f.join("model.safetensors"), f.join("second.safetensors")).unwrap())), ""),
        (WEIGHTS, Around(|f| rename(f, "pytorch_model.bin")), ""),
        (WEIGHTS, Around(|f| rename(f, "model.pt")), ""),
        (WEIGHTS, Around(|f| rename(f, "model.gguf")), ""),
        (WEIGHTS, Around(|f| index(f, "model-00002-of-00002.safetensors")), ""),
        (WEIGHTS, Around(|f| index(f, "../model.safetensors")), ""),
        (WEIGHTS, Around(|f| index(f, "/etc/passwd")), ""),
        (WEIGHTS, Around(|f| fs::write(f.join("model.safetensors.index.json"), "{").unwrap()), ""),
        (WEIGHTS, Around(|f| { fs::rename(f.join("model.safetensors"), f.join("../elsewhere")).unwrap(); symlink("../elsewhere", f.join("model.safetensors")).unwrap(); }), ""),
        (WEIGHTS, Around(|f| { fs::remove_file(f.join("model.safetensors")).unwrap(); symlink("nowhere", f.join("model.safetensors")).unwrap(); }), ""),
        (WEIGHTS, Around(|f| { fs::remove_file(f.join("model.safetensors")).unwrap(); fs::create_dir(f.join("model.safetensors")).unwrap(); }), ""),
        (WEIGHTS, Around(|f| fs::remove_dir_all(f).unwrap()), ""),
        (PAIRS, Gone, ""),
        (PAIRS, Around(|f| { fs::remove_file(f.join("words.sw-en.tsv")).unwrap(); fs::create_dir(f.join("words.sw-en.tsv")).unwrap(); }), ""),
        (ENGLISH, Gone, ""),
        (ENGLISH, Around(|f| fs::remove_dir_all(f).unwrap()), ""),
        (ENGLISH, Bytes(|_| vec![]), ""),
        (ENGLISH, Bytes(|b| b[..b.len() / 2].to_vec()), ""),
        (ENGLISH, Bytes(|_| text(r#"{"data": 3}"#)), ""),
        (ENGLISH, Bytes(|_| text(r#"{"data": []}"#)), ""),
        (ENGLISH, Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["context"] = json!(" "))), ""),
        (ENGLISH, Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["qas"][0]["question"] = json!(""))), ""),
        (ENGLISH, Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["qas"][0]["id"] = v["data"][0]["paragraphs"][0]["qas"][1]["id"].clone())), ""),
        (ENGLISH, Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["qas"][0]["id"] = json!("new"))), ""),
        (ENGLISH, Bytes(|b| squad(b, |v| drop(v["data"][0]["paragraphs"].as_array_mut().unwrap().remove(0)))), ""),
        (ADAPTER, Gone, ""),
        (ADAPTER, Bytes(|_| text("{")), ""),
        (ADAPTER, Field("peft_type", json!("IA3")), ""),
        (ADAPTER, Field("r", json!(0)), ""),
        (ADAPTER, Field("r", json!(3)), ""),
        (ADAPTER, Field("use_dora", json!(true)), ""),
        (ADAPTER, Field("bias", json!("all")), ""),
        (ADAPTER, Field("lora_dropout", json!(1.5)), ""),
        (ADAPTER, Field("target_modules", Value::Null), ""),
        (ADAPTER, Field("target_modules", json!(["v_proj"])), ""),
        (ADAPTER, Field("layers_to_transform", json!([0, 1])), ""),
        (FACTORS, Gone, ""),
        (FACTORS, Around(|f| fs::rename(f.join("adapter_model.safetensors"), f.join("adapter_model.bin")).unwrap()), ""),
        (FACTORS, Bytes(|b| b[..b.len() - 4].to_vec()), ""),
        (FACTORS, Bytes(|b| text(&String::from_utf8_lossy(b).replace("layers.0", "layers.7"))), ""),
        (FACTORS, Bytes(|b| text(&String::from_utf8_lossy(b).replace("lora_A", "lora_C"))), ""),
    ]
}

/// Puts back what a kind of damage has changed.
fn restore(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy(&entry.path(), &to) } else { drop(fs::copy(entry.path(), to).unwrap()) }
    }
}

#[test]
fn each_kind_of_damage_has_its_own_words() {
    let input = Input::new();
    copy(&input.path("in"), &input.path("good"));
    assert_eq!(input.refused(&["--init", "in/adapter", "--xquad", "in/xquad"]), "no error");
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = vec![];
    for (file, damage, expected) in &cases {
        let path = input.path(file);
        match damage {
            Bytes(change) => fs::write(&path, change(&fs::read(&path).unwrap())).unwrap(),
            Field(name, value) => {
                let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                match value {
                    Value::Null => drop(json.as_object_mut().unwrap().remove(*name)),
                    value => json[*name] = value.clone(),
                }
                fs::write(&path, json.to_string()).unwrap();
            }
            Header(change) => {
                let (mut header, data) = parts(&fs::read(&path).unwrap());
                change(&mut header);
                fs::write(&path, safetensors(&header, &data)).unwrap();
            }
            Gone => fs::remove_file(&path).unwrap(),
            Around(change) => change(path.parent().unwrap()),
        }
        let found = match *file {
            ADAPTER | FACTORS => input.refused(&["--init", "in/adapter"]),
            ENGLISH => input.refused(&["--xquad", "in/xquad", "--languages", "en,sw"]),
            _ => input.refused(&[]),
        };
        if found != format!("error: {expected}") {
            wrong.push(format!("{file}\n  found    {found}\n  expected error: {expected}"));
        }
        restore(&input.path("good"), &input.path("in"));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Files of pairs of every kind.
#[test]
fn pair_files_of_every_kind() {
    let input = Input::new();
    for (name, contents, expected) in [
        ("empty.tsv", &b""[..], ""),
        ("header.tsv", b"source\ttarget\n", ""),
        ("column.tsv", b"maji\nmoto\n", ""),
        ("side.tsv", b"sw\ten\nmaji\t \n", ""),
        ("bytes.tsv", b"sw\ten\nmaji\twat\xFFer\n", ""),
        ("wide.tsv", b"\xFF\xFEm\0\t\0w\0\n\0", ""),
        ("pairs.txt", b"maji\twater\n", ""),
        ("few.csv", b"maji,water\nmoto,fire\n", ""),
        ("short.csv", b"source,target\n\"maji\n", ""),
        ("list.jsonl", b"[1, 2]\n", ""),
        ("cut.jsonl", b"{\"source\": \"maji\", \"target\": \"water\"}\n{\"source\": \"mo", ""),
        ("key.jsonl", b"{\"source\": \"maji\", \"target\": \"water\"}\n{\"source\": \"moto\"}\n", ""),
        ("number.jsonl", b"{\"source\": \"maji\", \"target\": 3}\n", ""),
        ("one.jsonl", b"{\"source\": \"maji\"}\n", ""),
    ] {
        fs::write(input.path(name), contents).unwrap();
        let found = input.refused(&["--pairs", name]);
        assert_eq!(found, format!("error: {expected}"), "{name}");
    }
}
