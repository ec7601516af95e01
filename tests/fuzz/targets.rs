//! What reads a user's files, each as a function of one file's bytes. It may refuse them; it must not panic, hang, or
//! allocate more than a few times what it was given.
//!
//! `tests/fuzz` calls these with mutated seeds, and `fuzz/` gives them to libFuzzer.

use kiungo::device::Device;
use kiungo::formats::collection::Collection;
use kiungo::formats::nf4;
use kiungo::formats::peft::Adapter;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::squad;
use kiungo::formats::{kiungo_json::Record, pairs, tokenizer::Tokenizer};
use kiungo::llama::config::Config;
use kiungo::ops::nf4::LEVELS;
use kiungo::training::checkpoint::Checkpoints;
use kiungo::training::plan::Plan;
use kiungo::training::settings::{Method, Preset, Settings};
use safetensors::Dtype::{F32, U8};
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;

/// A reader and the inputs that its mutations start from.
pub struct Target {
    pub name: &'static str,
    /// Where in the folder the bytes are written.
    pub file: &'static str,
    /// What the folder holds besides.
    pub prepare: fn(&Path),
    /// Reads the folder.
    pub read: fn(&Path),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", file: "model.safetensors", prepare: nothing, read: weights, seeds: weights_seeds },
    Target { name: "index", file: "model.safetensors.index.json", prepare: shard, read: weights, seeds: index_seeds },
    Target { name: "nf4", file: "state.json", prepare: nothing, read: quantised, seeds: nf4_seeds },
    Target { name: "config", file: "config.json", prepare: nothing, read: config, seeds: config_seeds },
    Target { name: "tokenizer", file: "tokenizer.json", prepare: nothing, read: tokenizer, seeds: tokenizer_seeds },
    Target { name: "adapter", file: "adapter_config.json", prepare: factors, read: adapter, seeds: adapter_seeds },
    Target {
        name: "factors",
        file: "adapter_model.safetensors",
        prepare: settings,
        read: adapter,
        seeds: factors_seeds,
    },
    Target { name: "tsv", file: "pairs.tsv", prepare: nothing, read: |f| read_pairs(f, "pairs.tsv"), seeds: tsv_seeds },
    Target { name: "csv", file: "pairs.csv", prepare: nothing, read: |f| read_pairs(f, "pairs.csv"), seeds: csv_seeds },
    Target {
        name: "jsonl",
        file: "pairs.jsonl",
        prepare: nothing,
        read: |f| read_pairs(f, "pairs.jsonl"),
        seeds: jsonl_seeds,
    },
    Target { name: "squad", file: "xquad.ro.json", prepare: nothing, read: questions, seeds: squad_seeds },
    Target { name: "lines", file: "afriqa.swa.en.jsonl", prepare: nothing, read: lines, seeds: lines_seeds },
    Target { name: "corpus", file: "corpus.jsonl", prepare: beir, read: collection, seeds: corpus_seeds },
    Target { name: "qrels", file: "qrels/test.tsv", prepare: beir, read: collection, seeds: qrels_seeds },
    Target {
        name: "record",
        file: "kiungo.json",
        prepare: nothing,
        read: |f| drop(Record::open(f)),
        seeds: record_seeds,
    },
    Target {
        name: "checkpoint",
        file: "step-00000005/complete.json",
        prepare: step,
        read: found,
        seeds: complete_seeds,
    },
];

/// Gives bytes to a target, in a folder that [`Target::prepare`] has prepared.
pub fn run(target: &Target, folder: &Path, bytes: &[u8]) {
    fs::write(folder.join(target.file), bytes).unwrap();
    (target.read)(folder);
}

fn nothing(_: &Path) {}

/// A Llama of 64 features and two blocks.
const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128, "rope_theta": 1e4, "tie_word_embeddings": true, "bos_token_id": 1}"#;

fn small() -> Config {
    Config::parse(Path::new("config.json"), CONFIG).unwrap()
}

/// A safetensors file as the format says.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3C; data]].concat()
}

fn weights_seeds() -> Vec<Vec<u8>> {
    vec![
        file(
            r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}"#,
            12,
        ),
        file(
            r#"{"__metadata__":{"format":"pt"},"x":{"dtype":"F16","shape":[1,2,2],"data_offsets":[0,8]},"y":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}   "#,
            8,
        ),
    ]
}

fn weights(folder: &Path) {
    let Ok(checkpoint) = Checkpoint::open(folder) else { return };
    let names: Vec<String> = checkpoint.tensors().map(|(name, _)| name.into()).collect();
    let _ = checkpoint.identity();
    for name in &names {
        let _ = (checkpoint.read_f32(name), checkpoint.read_bytes(name), checkpoint.expect_shape(name, &[2, 1]));
        let _ = (nf4::is_quantised(&checkpoint, name), nf4::shape(&checkpoint, name));
        let _ = nf4::read(&checkpoint, name, [2, 64], &Device::Cpu);
    }
}

fn shard(folder: &Path) {
    fs::write(folder.join("model-00001-of-00001.safetensors"), &weights_seeds()[0]).unwrap();
}

fn index_seeds() -> Vec<Vec<u8>> {
    let index = r#"{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00001.safetensors","b":"model-00001-of-00001.safetensors"}}"#;
    vec![index.into(), br#"{"weight_map":{"a":"../a.safetensors"}}"#.to_vec()]
}

const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

fn nf4_seeds() -> Vec<Vec<u8>> {
    let plain = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}"#;
    let double = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.0}"#;
    vec![plain.into(), double.into()]
}

/// A 4-bit weight whose state is the input.
fn quantised(folder: &Path) {
    let state = fs::read(folder.join("state.json")).unwrap();
    let filled = vec![0x3F; 1024];
    let part = |part: &str, dtype, shape: &[usize], bytes: usize| {
        let bytes = match part {
            ".quant_map" => bytemuck::cast_slice(&LEVELS),
            ".quant_state.bitsandbytes__nf4" => &state[..],
            _ => &filled[..bytes],
        };
        (format!("{WEIGHT}{part}"), TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    };
    let parts = [
        part("", U8, &[64, 1], 64),
        part(".absmax", F32, &[2], 8),
        part(".quant_map", F32, &[16], 64),
        part(".nested_absmax", F32, &[1], 4),
        part(".nested_quant_map", F32, &[256], 1024),
        part(".quant_state.bitsandbytes__nf4", U8, &[state.len()], state.len()),
    ];
    fs::write(folder.join("model.safetensors"), safetensors::serialize(parts, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(folder).unwrap();
    let _ = (nf4::shape(&checkpoint, WEIGHT), nf4::read(&checkpoint, WEIGHT, [2, 64], &Device::Cpu));
}

fn config_seeds() -> Vec<Vec<u8>> {
    let scaled = CONFIG.replace(
        r#""rope_theta": 1e4"#,
        r#""rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#,
    );
    let quantised = CONFIG.replace(
        r#""rope_theta": 1e4"#,
        r#""head_dim": 16, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "bnb_4bit_compute_dtype": "bfloat16"}"#,
    );
    vec![CONFIG.into(), scaled.into(), quantised.into()]
}

/// A configuration, and what plans make of it.
fn config(folder: &Path) {
    let Ok(config) = Config::open(folder) else { return };
    for method in [Method::Lora, Method::Full] {
        let settings = Settings::preset(Preset::Clean, method, &config);
        if let Ok(plan) = Plan::new(&settings, &config, &[]) {
            plan.memory(&settings, &config, &kiungo::device::Device::Cpu, kiungo::device::DType::Bf16, 64, 64).total();
        }
    }
    let _ = (config.to_json(), config.stored_as("bfloat16"));
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let words = r#"{"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "b": 1}}, "added_tokens": []}"#;
    let merges = r#"{"version":"1.0","added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+"},"behavior":"Isolated","invert":false},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#;
    vec![words.into(), merges.into()]
}

fn tokenizer(folder: &Path) {
    let Ok(tokenizer) = Tokenizer::open(folder, &small()) else { return };
    for text in ["a b", "ab ț", "", "\u{0}"] {
        let _ = tokenizer.encode(text, Default::default(), 8);
    }
}

fn adapter_seeds() -> Vec<Vec<u8>> {
    let settings = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none", "target_modules": ["q_proj"], "layers_to_transform": [0]}"#;
    let pattern = r#"{"peft_type": "LORA", "r": 4, "target_modules": ".*\\.0\\.self_attn\\.(q|v)_proj", "exclude_modules": ["v_proj"], "use_rslora": true}"#;
    vec![settings.into(), pattern.into()]
}

fn factors_seeds() -> Vec<Vec<u8>> {
    let name = |factor| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight");
    let header = format!(
        r#"{{"{}":{{"dtype":"F32","shape":[4,64],"data_offsets":[0,1024]}},"{}":{{"dtype":"F32","shape":[64,4],"data_offsets":[1024,2048]}}}}"#,
        name("A"),
        name("B")
    );
    vec![file(&header, 2048)]
}

fn factors(folder: &Path) {
    fs::write(folder.join("adapter_model.safetensors"), &factors_seeds()[0]).unwrap();
}

fn settings(folder: &Path) {
    fs::write(folder.join("adapter_config.json"), &adapter_seeds()[0]).unwrap();
}

fn adapter(folder: &Path) {
    if let Ok(adapter) = Adapter::open(folder, &small()) {
        let _ = adapter.on_device(&Device::Cpu);
    }
}

fn tsv_seeds() -> Vec<Vec<u8>> {
    vec![
        "source\ttarget\nţânţar\tgnat\n".into(),
        "\u{feff}sw\tenglish\tnote\r\nmaji\twater\tx\r\n\r\n\"moto\tfire\t\n".into(),
    ]
}

fn csv_seeds() -> Vec<Vec<u8>> {
    vec!["a,\"b\"\"c\nd\",e\nf,g\n".into(), "target,source\r\nwater,maji\r\n".into()]
}

fn jsonl_seeds() -> Vec<Vec<u8>> {
    vec![
        "{\"source\":\"a\",\"target\":\"b\"}\n{\"source\":\"c\",\"target\":\"d\"}\n".into(),
        "{\"ro\":\"ș\",\"en\":\"x\"}".into(),
    ]
}

fn read_pairs(folder: &Path, file: &str) {
    if let Ok(read) = pairs::read(&folder.join(file), None) {
        let _ = pairs::split(&read.pairs, 1, &[0.8, 0.1, 0.1]);
    }
}

fn squad_seeds() -> Vec<Vec<u8>> {
    let one = r#"{"version":"1.1","data": [{"title": "t", "paragraphs": [{"context": "ţ a", "qas": [{"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 2}]}, {"id": "2", "question": "r"}]}]}]}"#;
    vec![one.into()]
}

fn questions(folder: &Path) {
    if let Ok(languages) = squad::languages_in(folder) {
        let _ = squad::open_languages(folder, &languages);
    }
    collection(folder);
}

/// AfriQA's gold passages, and Belebele.
fn lines_seeds() -> Vec<Vec<u8>> {
    let afriqa = r#"{"id": 3, "title": "t", "context": "Nairobi is a city", "question_lang": "Jiji gani?", "answer_pivot": {"text": ["Nairobi"], "answer_start": [0]}}"#;
    let belebele = r#"{"link": "l", "question_number": 1, "flores_passage": "P.", "question": "q?", "dialect": "swh_Latn", "correct_answer_num": "2"}"#;
    vec![afriqa.into(), belebele.into()]
}

fn lines(folder: &Path) {
    let _ = Collection::open(&folder.join("afriqa.swa.en.jsonl"));
}

fn corpus_seeds() -> Vec<Vec<u8>> {
    vec!["{\"_id\": \"d1\", \"title\": \"t\", \"text\": \"one\"}\n{\"_id\": \"d2\", \"text\": \"two\"}\n".into()]
}

fn qrels_seeds() -> Vec<Vec<u8>> {
    vec!["query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n".into()]
}

/// A folder of BEIR, before one of its files is the input.
fn beir(folder: &Path) {
    fs::create_dir(folder.join("qrels")).unwrap();
    fs::write(folder.join("corpus.jsonl"), &corpus_seeds()[0]).unwrap();
    fs::write(folder.join("queries.jsonl"), "{\"_id\": \"q1\", \"text\": \"which?\"}\n").unwrap();
    fs::write(folder.join("qrels/test.tsv"), &qrels_seeds()[0]).unwrap();
}

fn collection(folder: &Path) {
    if let Ok(mut all) = Collection::open(folder) {
        all.restrict(&["ro".into()]);
        let _ = (all.identity(), all.question_languages());
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let record = r#"{"version":"0.1.0","base_model":"x","base_identity":{"config":"00","weights":{"block 0":"11"}},"base":"bf16","method":"lora","target":"2","training_pooling":"mean-no-sink","pooling":"mean-no-sink","bos":"add","max_length":128,"seed":1}"#;
    vec![record.into()]
}

/// A checkpoint with a manifest of its own.
fn step(folder: &Path) {
    let step = folder.join("step-00000005");
    fs::create_dir(&step).unwrap();
    fs::write(step.join("state.safetensors"), &weights_seeds()[0]).unwrap();
    fs::write(step.join("config.json"), "{}").unwrap();
    let progress = r#"{"step":5,"skipped":0,"metrics_bytes":10,"seconds":1.5,"device":"CPU"}"#;
    fs::write(step.join("progress.json"), progress).unwrap();
}

fn complete_seeds() -> Vec<Vec<u8>> {
    let sum = |file: &str| {
        format!(r#""{file}":{{"bytes":2,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}"#)
    };
    let files = ["state.safetensors", "progress.json", "config.json"].map(sum).join(",");
    vec![format!(r#"{{"version":1,"files":{{{files}}}}}"#).into()]
}

fn found(folder: &Path) {
    let checkpoints = Checkpoints::new(folder.into(), 2);
    let _ = checkpoints.newest().map(|found| found.newest.map(|whole| whole.config()));
}
