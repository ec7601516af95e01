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
            name("A"): {"dtype": "F32", "shape": [2, 128], "data_offsets": [0, 1024]},
            name("B"): {"dtype": "F32", "shape": [128, 2], "data_offsets": [1024, 2048]},
        });
        fs::write(folder.join("adapter_model.safetensors"), safetensors(&header, &[0; 2048])).unwrap();
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

/// The bytes with others, as many, in the place of some.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

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
        (
            CONFIG,
            Gone,
            "DIR/in/model/config.json: No such file or directory (os error 2); expected a checkpoint folder in Hugging Face's layout",
        ),
        (
            CONFIG,
            Bytes(|_| vec![]),
            "DIR/in/model/config.json: not a JSON object: EOF while parsing a value at line 1 column 0",
        ),
        (
            CONFIG,
            Bytes(|b| b[..b.len() / 2].to_vec()),
            "DIR/in/model/config.json: not a JSON object: EOF while parsing a string at line 13 column 8",
        ),
        (CONFIG, Bytes(|_| text("[1, 2]")), "DIR/in/model/config.json: not a JSON object: found an array of 2"),
        (
            CONFIG,
            Bytes(|b| [b, b"x"].concat()),
            "DIR/in/model/config.json: not a JSON object: trailing characters at line 24 column 1",
        ),
        (
            CONFIG,
            Bytes(|b| [b"\xFF", b].concat()),
            "DIR/in/model/config.json: stream did not contain valid UTF-8; expected a checkpoint folder in Hugging Face's layout",
        ),
        (
            CONFIG,
            Field("model_type", json!("mistral")),
            r#"DIR/in/model/config.json: unknown architecture: model_type is "mistral"; only llama is implemented (Llama 2, 3, 3.1, 3.2, SmolLM2)"#,
        ),
        (
            CONFIG,
            Field("hidden_size", Value::Null),
            "DIR/in/model/config.json: hidden_size is missing, expected a positive integer",
        ),
        (
            CONFIG,
            Field("hidden_size", json!(0)),
            "DIR/in/model/config.json: hidden_size is 0, expected a positive integer below 2^31",
        ),
        (
            CONFIG,
            Field("hidden_size", json!(-64)),
            "DIR/in/model/config.json: hidden_size is -64, expected a positive integer below 2^31",
        ),
        (
            CONFIG,
            Field("hidden_size", json!("64")),
            r#"DIR/in/model/config.json: hidden_size is "64", expected a positive integer below 2^31"#,
        ),
        (
            CONFIG,
            Field("hidden_size", json!(u64::MAX)),
            "DIR/in/model/config.json: hidden_size is 18446744073709551615, expected a positive integer below 2^31",
        ),
        (
            CONFIG,
            Field("hidden_size", json!(64)),
            "DIR/in/model/model.safetensors: model.embed_tokens.weight has shape [258, 128], expected [258, 64]",
        ),
        (
            CONFIG,
            Field("intermediate_size", json!(0)),
            "DIR/in/model/config.json: intermediate_size is 0, expected a positive integer below 2^31",
        ),
        (
            CONFIG,
            Field("num_attention_heads", json!(3)),
            "DIR/in/model/config.json: num_key_value_heads is 2, expected a divisor of num_attention_heads (3)",
        ),
        (
            CONFIG,
            Field("num_key_value_heads", json!(3)),
            "DIR/in/model/config.json: num_key_value_heads is 3, expected a divisor of num_attention_heads (4)",
        ),
        (
            CONFIG,
            Field("num_hidden_layers", json!(0)),
            "DIR/in/model/config.json: num_hidden_layers is 0, expected a positive integer below 2^31",
        ),
        (CONFIG, Field("num_hidden_layers", json!(1)), "--layers 2: the model has 1 blocks"),
        (
            CONFIG,
            Field("vocab_size", json!(10)),
            "DIR/in/model/tokenizer.json: token ids go up to 257, but the model's embedding has 10 rows; take the tokenizer of the same checkpoint",
        ),
        (
            CONFIG,
            Field("hidden_act", json!("gelu")),
            r#"DIR/in/model/config.json: hidden_act is "gelu", expected silu: nothing else is implemented"#,
        ),
        (
            CONFIG,
            Field("attention_bias", json!(true)),
            "DIR/in/model/config.json: attention_bias is true, expected false: biases are not implemented",
        ),
        (
            CONFIG,
            Field("rms_norm_eps", json!(-1)),
            "DIR/in/model/config.json: rms_norm_eps is -1, expected a positive number",
        ),
        (
            CONFIG,
            Field("rope_theta", json!("big")),
            r#"DIR/in/model/config.json: rope_theta is "big", expected a positive number"#,
        ),
        (
            CONFIG,
            Field("rope_scaling", json!({"rope_type": "yarn", "factor": 2})),
            r#"DIR/in/model/config.json: rope_scaling.rope_type is "yarn", expected default, linear or llama3: no other scaling is implemented"#,
        ),
        (
            CONFIG,
            Field("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
            r#"DIR/in/model/config.json: quantization_config.quant_method is "gptq", expected bitsandbytes: nothing else is implemented"#,
        ),
        (
            TOKENIZER,
            Bytes(|_| text(r#"{"version": "1.0", "decoder": x}"#)),
            "DIR/in/model/tokenizer.json: expected value at line 1 column 31; expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Field(
                "post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [], "special_tokens": {}}),
            ),
            "DIR/in/model/tokenizer.json: the tokenizers library gave up (no entry found for key); expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Gone,
            "DIR/in/model/tokenizer.json: No such file or directory (os error 2); expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Bytes(|_| vec![]),
            "DIR/in/model/tokenizer.json: EOF while parsing a value at line 1 column 0; expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Bytes(|b| b[..b.len() - 2].to_vec()),
            "DIR/in/model/tokenizer.json: EOF while parsing an object at line 310 column 0; expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Bytes(|_| text(r#"{"model": {"type": "Magic", "vocab": {}}}"#)),
            "DIR/in/model/tokenizer.json: data did not match any variant of untagged enum ModelUntagged at line 1 column 41; expected a tokenizer.json as Hugging Face's tokenizers library writes it",
        ),
        (
            TOKENIZER,
            Bytes(|_| {
                text(r#"{"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 5000}}, "added_tokens": []}"#)
            }),
            "DIR/in/model/tokenizer.json: token ids go up to 5000, but the model's embedding has 258 rows; take the tokenizer of the same checkpoint",
        ),
        (WEIGHTS, Gone, "DIR/in/model: no *.safetensors file; expected a checkpoint folder in Hugging Face's layout"),
        (
            WEIGHTS,
            Bytes(|_| vec![]),
            "DIR/in/model/model.safetensors: 0 bytes where its header asks for 8; download or copy it again",
        ),
        (
            WEIGHTS,
            Bytes(|b| b[..7].to_vec()),
            "DIR/in/model/model.safetensors: 7 bytes where its header asks for 8; download or copy it again",
        ),
        (
            WEIGHTS,
            Bytes(|_| text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")),
            "DIR/in/model/model.safetensors: a Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (
            WEIGHTS,
            Bytes(|b| [&99_000_000u64.to_le_bytes(), &b[8..]].concat()),
            "DIR/in/model/model.safetensors: 1546936 bytes where its header asks for 99000008; download or copy it again",
        ),
        (
            WEIGHTS,
            Bytes(|b| [&u64::MAX.to_le_bytes(), &b[8..]].concat()),
            "DIR/in/model/model.safetensors: not a safetensors file",
        ),
        (
            WEIGHTS,
            Bytes(|b| [b, b"x"].concat()),
            "DIR/in/model/model.safetensors: 1546937 bytes where its header asks for 1546936; download or copy it again",
        ),
        (
            WEIGHTS,
            Bytes(|b| b[..b.len() - 1].to_vec()),
            "DIR/in/model/model.safetensors: 1546935 bytes where its header asks for 1546936; download or copy it again",
        ),
        (
            WEIGHTS,
            Bytes(|_| raw_safetensors(b"{]", &[])),
            "DIR/in/model/model.safetensors: not a safetensors header: key must be a string at line 1 column 2",
        ),
        (
            WEIGHTS,
            Bytes(|_| raw_safetensors(b"\xFF\xFE", &[])),
            "DIR/in/model/model.safetensors: not a safetensors header: expected value at line 1 column 1",
        ),
        (
            WEIGHTS,
            Bytes(|_| raw_safetensors(b"{}", &[])),
            "DIR/in/model: no tensor model.embed_tokens.weight (there are 0, such as )",
        ),
        (
            WEIGHTS,
            Bytes(|b| first_value(b, [0xC0, 0x7F])),
            "DIR/in/model/model.safetensors: model.embed_tokens.weight at [0, 0] is NaN as bf16; the weights are damaged",
        ),
        (
            WEIGHTS,
            Bytes(|b| first_value(b, [0x80, 0xFF])),
            "DIR/in/model/model.safetensors: model.embed_tokens.weight at [0, 0] is -inf as bf16; the weights are damaged",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["dtype"] = json!("F128")),
            "DIR/in/model/model.safetensors: not a safetensors header: unknown variant `F128`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64` at line 1 column 4014",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["dtype"] = json!("I16")),
            "DIR/in/model/model.safetensors: model.layers.0.input_layernorm.weight is I16, expected F32, F16 or BF16",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["shape"] = json!([32, 2])),
            "DIR/in/model/model.safetensors: not a safetensors header: invalid shape, data type, or offset for tensor",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["shape"] = json!([65])),
            "DIR/in/model/model.safetensors: not a safetensors header: invalid shape, data type, or offset for tensor",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["shape"] = json!([1u64 << 40, 1u64 << 40])),
            "DIR/in/model/model.safetensors: not a safetensors header: overflow computing buffer size from shape and/or element type",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["data_offsets"] = json!([0, 128])),
            "DIR/in/model/model.safetensors: not a safetensors header: invalid shape, data type, or offset for tensor",
        ),
        (
            WEIGHTS,
            Header(|h| h[NORM]["data_offsets"] = json!([u64::MAX - 127, u64::MAX])),
            "DIR/in/model/model.safetensors: not a safetensors header: invalid offset for tensor `model.layers.0.post_attention_layernorm.weight`",
        ),
        (
            WEIGHTS,
            Header(|h| {
                let norm = h.as_object_mut().unwrap().remove(NORM).unwrap();
                h["other"] = norm;
            }),
            "DIR/in/model: no tensor model.layers.0.input_layernorm.weight (there are 38, such as model.embed_tokens.weight)",
        ),
        (
            WEIGHTS,
            Around(|f| assert!(fs::copy(f.join("model.safetensors"), f.join("second.safetensors")).is_ok())),
            "DIR/in/model/second.safetensors: model.embed_tokens.weight is in DIR/in/model/model.safetensors too; remove the file that does not belong",
        ),
        (
            WEIGHTS,
            Around(|f| rename(f, "pytorch_model.bin")),
            "DIR/in/model: no *.safetensors file; pytorch_model.bin is a pickle, which can run code when it is read: load it where you trust it and save it again with transformers' model.save_pretrained(folder)",
        ),
        (
            WEIGHTS,
            Around(|f| rename(f, "model.pt")),
            "DIR/in/model: no *.safetensors file; model.pt is a pickle, which can run code when it is read: load it where you trust it and save it again with transformers' model.save_pretrained(folder)",
        ),
        (
            WEIGHTS,
            Around(|f| rename(f, "model.gguf")),
            "DIR/in/model: no *.safetensors file; model.gguf is not read: take the original checkpoint in Hugging Face's layout",
        ),
        (
            WEIGHTS,
            Around(|f| index(f, "model-00002-of-00002.safetensors")),
            "DIR/in/model/model.safetensors.index.json: names model-00002-of-00002.safetensors, which is not in the folder; download or copy it again",
        ),
        (
            WEIGHTS,
            Around(|f| index(f, "../model.safetensors")),
            "DIR/in/model/model.safetensors.index.json: ../model.safetensors leads out of the checkpoint's folder; put the file itself there",
        ),
        (
            WEIGHTS,
            Around(|f| index(f, "/etc/passwd")),
            "DIR/in/model/model.safetensors.index.json: /etc/passwd leads out of the checkpoint's folder; put the file itself there",
        ),
        (
            WEIGHTS,
            Around(|f| fs::write(f.join("model.safetensors.index.json"), "{").unwrap()),
            "DIR/in/model/model.safetensors.index.json: not an index of safetensors files: EOF while parsing an object at line 1 column 1",
        ),
        (
            WEIGHTS,
            Around(|f| {
                fs::rename(f.join("model.safetensors"), f.join("../elsewhere")).unwrap();
                symlink("../elsewhere", f.join("model.safetensors")).unwrap();
            }),
            "DIR/in/model/model.safetensors: its target DIR/in/elsewhere leads out of the checkpoint's folder; put the file itself there",
        ),
        (
            WEIGHTS,
            Around(|f| {
                fs::remove_file(f.join("model.safetensors")).unwrap();
                symlink("nowhere", f.join("model.safetensors")).unwrap();
            }),
            "DIR/in/model/model.safetensors: No such file or directory (os error 2)",
        ),
        (
            WEIGHTS,
            Around(|f| {
                fs::remove_file(f.join("model.safetensors")).unwrap();
                fs::create_dir(f.join("model.safetensors")).unwrap();
            }),
            "DIR/in/model/model.safetensors: Is a directory (os error 21)",
        ),
        (
            WEIGHTS,
            Around(|f| fs::remove_dir_all(f).unwrap()),
            "DIR/in/model/config.json: No such file or directory (os error 2); expected a checkpoint folder in Hugging Face's layout",
        ),
        (PAIRS, Gone, "DIR/in/words.sw-en.tsv: No such file or directory (os error 2)"),
        (
            PAIRS,
            Around(|f| {
                fs::remove_file(f.join("words.sw-en.tsv")).unwrap();
                fs::create_dir(f.join("words.sw-en.tsv")).unwrap();
            }),
            "DIR/in/words.sw-en.tsv: Is a directory (os error 21)",
        ),
        (ENGLISH, Gone, "DIR/in/xquad: nothing in en; languages there: sw"),
        (ENGLISH, Around(|f| fs::remove_dir_all(f).unwrap()), "DIR/in/xquad: No such file or directory (os error 2)"),
        (
            ENGLISH,
            Bytes(|_| vec![]),
            "DIR/in/xquad/xquad.en.json: not SQuAD v1.1 JSON (not one JSON value): EOF while parsing a value at line 1 column 0; expected data, paragraphs, qas",
        ),
        (
            ENGLISH,
            Bytes(|b| b[..b.len() / 2].to_vec()),
            "DIR/in/xquad/xquad.en.json: not SQuAD v1.1 JSON (not one JSON value): EOF while parsing a list at line 237 column 9; expected data, paragraphs, qas",
        ),
        (
            ENGLISH,
            Bytes(|_| text(r#"{"data": 3}"#)),
            "DIR/in/xquad/xquad.en.json: not SQuAD v1.1 JSON (an object of data): invalid type: integer `3`, expected a sequence at line 1 column 10; expected data, paragraphs, qas",
        ),
        (ENGLISH, Bytes(|_| text(r#"{"data": []}"#)), "DIR/in/xquad/xquad.en.json: no questions"),
        (
            ENGLISH,
            Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["context"] = json!(" "))),
            "DIR/in/xquad/xquad.en.json: no text in paragraph 0",
        ),
        (
            ENGLISH,
            Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["qas"][0]["question"] = json!(""))),
            "DIR/in/xquad/xquad.en.json: no text in question builtin-01-1",
        ),
        (
            ENGLISH,
            Bytes(|b| {
                squad(b, |v| {
                    v["data"][0]["paragraphs"][0]["qas"][0]["id"] =
                        v["data"][0]["paragraphs"][0]["qas"][1]["id"].clone()
                })
            }),
            "DIR/in/xquad/xquad.en.json: question id builtin-01-2 occurs twice; ids must be unique to join languages",
        ),
        (
            ENGLISH,
            Bytes(|b| squad(b, |v| v["data"][0]["paragraphs"][0]["qas"][0]["id"] = json!("new"))),
            "DIR/in/xquad/xquad.sw.json: question builtin-01-1 of paragraph 0 stands where new of paragraph 0 is expected; files of one version of the data set are needed, as in DIR/in/xquad/xquad.en.json",
        ),
        (
            ENGLISH,
            Bytes(|b| squad(b, |v| drop(v["data"][0]["paragraphs"].as_array_mut().unwrap().remove(0)))),
            "DIR/in/xquad/xquad.sw.json: 12 paragraphs, expected 11; files of one version of the data set are needed, as in DIR/in/xquad/xquad.en.json",
        ),
        (
            ADAPTER,
            Gone,
            "DIR/in/adapter/adapter_config.json: No such file or directory (os error 2); expected a folder with adapter_config.json and adapter_model.safetensors",
        ),
        (
            ADAPTER,
            Bytes(|_| text("{")),
            "DIR/in/adapter/adapter_config.json: not a JSON object: EOF while parsing an object at line 1 column 1",
        ),
        (
            ADAPTER,
            Field("peft_type", json!("IA3")),
            r#"DIR/in/adapter/adapter_config.json: peft_type is "IA3"; only LORA is implemented"#,
        ),
        (ADAPTER, Field("r", json!(0)), "DIR/in/adapter/adapter_config.json: r is 0, expected a rank from 1 to 65536"),
        (
            ADAPTER,
            Field("r", json!(3)),
            "DIR/in/adapter/adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight has shape [2, 128], expected [3, 128]; the adapter belongs to another base (unnamed)",
        ),
        (
            ADAPTER,
            Field("use_dora", json!(true)),
            "DIR/in/adapter/adapter_config.json: use_dora is true: not implemented; train with plain LoRA",
        ),
        (
            ADAPTER,
            Field("bias", json!("all")),
            r#"DIR/in/adapter/adapter_config.json: bias is "all": biases are not implemented"#,
        ),
        (
            ADAPTER,
            Field("lora_dropout", json!(1.5)),
            "DIR/in/adapter/adapter_config.json: lora_alpha 4, lora_dropout 1.5: expected a number, and one in [0, 1)",
        ),
        (
            ADAPTER,
            Field("target_modules", Value::Null),
            "DIR/in/adapter/adapter_config.json: target_modules is missing",
        ),
        (
            ADAPTER,
            Field("target_modules", json!(["v_proj"])),
            "DIR/in/adapter/adapter_model.safetensors: no factors for model.layers.0.self_attn.v_proj, which adapter_config.json targets",
        ),
        (
            ADAPTER,
            Field("layers_to_transform", json!([0, 1])),
            "DIR/in/adapter/adapter_model.safetensors: no factors for model.layers.1.self_attn.q_proj, which adapter_config.json targets",
        ),
        (FACTORS, Gone, "DIR/in/adapter/adapter_model.safetensors: No such file or directory (os error 2)"),
        (
            FACTORS,
            Around(|f| fs::rename(f.join("adapter_model.safetensors"), f.join("adapter_model.bin")).unwrap()),
            "DIR/in/adapter/adapter_model.bin: a pickle, which can run code when it is read: load it where you trust it and save it again with PEFT's model.save_pretrained(folder)",
        ),
        (
            FACTORS,
            Bytes(|b| b[..b.len() - 4].to_vec()),
            "DIR/in/adapter/adapter_model.safetensors: 2298 bytes where its header asks for 2302; download or copy it again",
        ),
        (
            FACTORS,
            Bytes(|b| replaced(b, b"layers.0", b"layers.7")),
            "DIR/in/adapter/adapter_model.safetensors: factors for block 7, but the base has 4 blocks; the adapter belongs to another base (unnamed)",
        ),
        (
            FACTORS,
            Bytes(|b| replaced(b, b"lora_A", b"lora_C")),
            "DIR/in/adapter/adapter_model.safetensors: base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight is no LoRA factor of a Llama's linear layers; it is not implemented",
        ),
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
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            assert!(fs::copy(entry.path(), to).is_ok())
        }
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
        ("empty.tsv", &b""[..], "DIR/empty.tsv: no pairs; expected two columns, or JSON lines with source and target"),
        (
            "header.tsv",
            b"source\ttarget\n",
            "DIR/header.tsv: no pairs; expected two columns, or JSON lines with source and target",
        ),
        ("column.tsv", b"maji\nmoto\n", "DIR/column.tsv:1: 1 column(s), expected at least 2"),
        ("side.tsv", b"sw\ten\nmaji\t \n", "DIR/side.tsv:2: the second side of the pair is empty"),
        ("bytes.tsv", b"sw\ten\nmaji\twat\xFFer\n", "DIR/bytes.tsv:2: not UTF-8; save the file as UTF-8"),
        ("wide.tsv", b"\xFF\xFEm\0\t\0w\0\n\0", "DIR/wide.tsv:1: not UTF-8; save the file as UTF-8"),
        ("pairs.txt", b"maji\twater\n", "DIR/pairs.txt: unknown kind of file; expected .tsv, .csv or .jsonl"),
        (
            "few.csv",
            b"maji,water\nmoto,fire\n",
            "DIR/few.csv: 2 pairs to learn from, fewer than a batch of 64; add pairs, or lower --batch",
        ),
        ("short.csv", b"source,target\n\"maji\n", "DIR/short.csv:2: 1 column(s), expected at least 2"),
        (
            "list.jsonl",
            b"[1, 2]\n",
            "DIR/list.jsonl:1: not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
        ),
        (
            "cut.jsonl",
            b"{\"source\": \"maji\", \"target\": \"water\"}\n{\"source\": \"mo",
            "DIR/cut.jsonl:2: not a JSON object: EOF while parsing a string at line 1 column 14",
        ),
        (
            "key.jsonl",
            b"{\"source\": \"maji\", \"target\": \"water\"}\n{\"source\": \"moto\"}\n",
            "DIR/key.jsonl:2: no key target",
        ),
        (
            "number.jsonl",
            b"{\"source\": \"maji\", \"target\": 3}\n",
            "DIR/number.jsonl:1: target is 3, expected a string",
        ),
        ("one.jsonl", b"{\"source\": \"maji\"}\n", "DIR/one.jsonl:1: 1 key(s), expected source and target"),
    ] {
        fs::write(input.path(name), contents).unwrap();
        let found = input.refused(&["--pairs", name]);
        assert_eq!(found, format!("error: {expected}"), "{name}");
    }
}

/// Names with blanks and letters of other scripts are names like others; one that is no text cannot be recorded.
#[test]
fn odd_paths() {
    use std::os::unix::ffi::OsStrExt;
    let input = Input::new();
    let odd = input.path("Țară și 日本 (1)");
    fs::rename(input.path("in"), &odd).unwrap();
    let train = |pairs: &Path, output: &Path| {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        command.current_dir(input.folder.path()).args(["train", "--device", "cpu", "--epochs", "1", "--layers", "2"]);
        command.arg("--model").arg(odd.join("model")).arg("--pairs").arg(pairs).arg("--xquad").arg(odd.join("xquad"));
        command.arg("--output").arg(output).output().unwrap()
    };
    let output = train(&odd.join("words.sw-en.tsv"), &odd.join("a run"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(odd.join("a run/adapter/adapter_model.safetensors").exists());
    let bytes = input.path("").join(std::ffi::OsStr::from_bytes(b"words\xFF.tsv"));
    fs::copy(odd.join("words.sw-en.tsv"), &bytes).unwrap();
    let output = train(&bytes, &input.path("run"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.trim().ends_with("error: a run records its arguments: path contains invalid UTF-8 characters"),
        "{error}"
    );
    assert!(!input.path("run").exists());
}

/// What holds no folder holds no run, and what is in the way stays.
#[test]
fn outputs_that_cannot_be() {
    let input = Input::new();
    fs::write(input.path("file"), "mine").unwrap();
    for (output, expected) in [
        ("file", "error: DIR/file: File exists (os error 17)"),
        ("file/run", "error: DIR/file/run: Not a directory (os error 20)"),
        ("in", "error: DIR/in: not empty (it holds adapter); name a new folder, or empty this one"),
    ] {
        let mut command = Command::cargo_bin("kiungo").unwrap();
        let output = command.arg("train").arg("--output").arg(input.path(output)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).replace(&input.folder.path().display().to_string(), "DIR");
        let last = error.lines().last().unwrap_or_default();
        assert!(
            last == expected || (output.status.code() == Some(1) && last.starts_with("error: DIR/in: not empty")),
            "{last}"
        );
    }
    assert_eq!(fs::read(input.path("file")).unwrap(), b"mine");
}
