use super::words;
use crate::support;
use kiungo::formats::peft::{Adapter, AdapterConfig, Factors};
use kiungo::llama::config::{Config, Projection};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

use Projection::{Down, K, O, Q, V};

fn tiny() -> Config {
    Config::open(&support::path("golden/tiny-llama")).unwrap()
}

fn settings(rank: usize) -> AdapterConfig {
    let base_model = Some("tiny-llama".into());
    AdapterConfig { base_model, rank, alpha: 8.0, dropout: 0.05, rslora: false, unknown: vec![] }
}

/// Values that tell every place apart and that no generator can change.
fn values(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.75).collect()
}

fn adapter(config: AdapterConfig, adapted: &[(usize, Projection)]) -> Adapter {
    let tiny = tiny();
    let factors = adapted.iter().enumerate().map(|(i, &(block, projection))| {
        let [out, input] = tiny.shape(projection);
        let (a, b) = (values(i, config.rank * input), values(i + 50, out * config.rank));
        ((block, projection), Factors { a, b })
    });
    Adapter { factors: factors.collect(), config }
}

/// The same projections in some blocks, and a mixture.
fn samples() -> [(&'static str, Adapter); 2] {
    let uneven = AdapterConfig { alpha: 7.5, rslora: true, ..settings(3) };
    [
        ("product", adapter(settings(4), &[(0, Q), (0, V), (2, Q), (2, V)])),
        ("uneven", adapter(uneven, &[(1, K), (1, Down), (3, O)])),
    ]
}

fn read_all(folder: &Path) -> [Vec<u8>; 2] {
    ["adapter_config.json", "adapter_model.safetensors"].map(|name| fs::read(folder.join(name)).unwrap())
}

#[test]
fn what_is_written_is_what_peft_was_checked_with() {
    for (name, adapter) in samples() {
        let golden = support::path("golden/peft").join(name);
        if std::env::var_os("KIUNGO_BLESS").is_some() {
            fs::create_dir_all(&golden).unwrap();
            adapter.write(&golden).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        adapter.write(folder.path()).unwrap();
        assert!(read_all(folder.path()) == read_all(&golden), "{name}: PEFT must check it again (tests/peer)");
        assert_eq!(Adapter::open(folder.path(), &tiny()).unwrap(), adapter);
    }
}

#[test]
fn what_peft_saved_of_it_is_read_back_equal() {
    for (name, mut adapter) in samples() {
        let folder = support::path("golden/peft").join(format!("{name}.peer"));
        let read = Adapter::open(&folder, &tiny()).unwrap();
        adapter.config.base_model.clone_from(&read.config.base_model);
        assert_eq!(read, adapter);
    }
}

#[test]
fn the_scale_is_that_of_plain_or_rank_stabilised_lora() {
    assert_eq!(settings(4).scale(), 2.0);
    assert_eq!(AdapterConfig { rslora: true, ..settings(4) }.scale(), 4.0);
}

#[test]
fn a_peers_adapter_of_a_real_model_is_read() {
    let smol = json!({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                      "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
                      "max_position_embeddings": 8192, "vocab_size": 49152});
    let smol = Config::parse(Path::new("config.json"), &smol.to_string()).unwrap();
    let folder = support::path("golden/peer_lora_clean");
    let adapter = Adapter::open(&folder, &smol).unwrap();
    assert_eq!(adapter.factors.len(), 14);
    assert_eq!((adapter.config.rank, adapter.config.scale(), adapter.config.dropout), (16, 2.0, 0.0));
    assert!(adapter.config.unknown.is_empty(), "{:?}", adapter.config.unknown);
    assert_eq!(adapter.factors[&(1, Down)].a.len(), 16 * 1536);
    assert!(adapter.factors[&(1, K)].b.iter().all(|&b| b == 0.0));

    let error = words(Adapter::open(&folder, &tiny()).unwrap_err(), &folder);
    let tensor = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(
        error,
        format!(
            "adapter_model.safetensors: {tensor} has shape [16, 576], expected [16, 64]; the adapter belongs to another base (unnamed)"
        )
    );
}

/// The first sample, with settings changed (null removes one).
fn changed(changes: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    samples()[0].1.write(folder.path()).unwrap();
    let path = folder.path().join("adapter_config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in changes {
        let json = json.as_object_mut().unwrap();
        match value {
            Value::Null => drop(json.remove(*key)),
            value => drop(json.insert(key.to_string(), value.clone())),
        }
    }
    fs::write(&path, json.to_string()).unwrap();
    folder
}

#[test]
fn targets_are_matched_as_peft_does() {
    let none = || ("layers_to_transform", Value::Null);
    let cases = [
        vec![("target_modules", json!(["self_attn.q_proj", "v_proj", "score"]))],
        vec![("target_modules", json!(r".*\.[02]\.self_attn\.(q|v)_proj")), none()],
        vec![("target_modules", json!(r"model\.layers\.(?!1|3).*(?<=[qv])_proj")), none()],
        vec![
            ("target_modules", json!(["q_proj", "v_proj", "mlp.down_proj"])),
            ("exclude_modules", json!(["down_proj"])),
        ],
        vec![("target_modules", json!("all-linear")), ("exclude_modules", json!(r".*(\.[13]\.|mlp|[ko]_).*")), none()],
        vec![
            (
                "target_modules",
                json!([
                    "0.self_attn.q_proj",
                    "0.self_attn.v_proj",
                    "model.layers.2.self_attn.q_proj",
                    "model.layers.2.self_attn.v_proj"
                ]),
            ),
            ("layers_to_transform", json!(0)),
        ],
    ];
    for changes in cases {
        let folder = changed(&changes);
        let adapter = Adapter::open(folder.path(), &tiny()).map_err(|e| format!("{changes:?}: {e}"));
        assert_eq!(adapter.unwrap().factors, samples()[0].1.factors);
    }
}

#[test]
fn variants_are_refused_by_name() {
    let cases = [
        ("use_dora", json!(true), "use_dora is true: not implemented; train with plain LoRA"),
        (
            "modules_to_save",
            json!(["lm_head"]),
            "modules_to_save is [\"lm_head\"]: not implemented; train with plain LoRA",
        ),
        (
            "rank_pattern",
            json!({"q_proj": 8}),
            "rank_pattern is {\"q_proj\":8}: not implemented; train with plain LoRA",
        ),
        (
            "alpha_pattern",
            json!({"q_proj": 8}),
            "alpha_pattern is {\"q_proj\":8}: not implemented; train with plain LoRA",
        ),
        ("lora_bias", json!(true), "lora_bias is true: not implemented; train with plain LoRA"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out is true: not implemented; train with plain LoRA"),
        ("layers_pattern", json!("h"), "layers_pattern is \"h\": not implemented; train with plain LoRA"),
        ("bias", json!("all"), "bias is \"all\": biases are not implemented"),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            "init_lora_weights is \"pissa_niter_4\": the adapter belongs to a base that was changed when it started; convert it to plain LoRA with PEFT",
        ),
        ("peft_type", json!("IA3"), "peft_type is \"IA3\"; only LORA is implemented"),
        ("peft_type", Value::Null, "missing field `peft_type` at line 1 column 408"),
        ("r", json!(0), "r is 0, expected a rank from 1 to 65536"),
        ("lora_dropout", json!(1.0), "lora_alpha 8, lora_dropout 1: expected a number, and one in [0, 1)"),
        ("target_modules", Value::Null, "target_modules is missing"),
        ("target_modules", json!(".*q_proj"), "layers_to_transform needs target_modules to be a list"),
    ];
    for (key, value, message) in cases {
        let folder = changed(&[(key, value)]);
        let error = words(Adapter::open(folder.path(), &tiny()).unwrap_err(), folder.path());
        assert_eq!(error, format!("adapter_config.json: {message}"));
    }
    let folder = changed(&[("target_modules", json!("(")), ("layers_to_transform", Value::Null)]);
    let error = words(Adapter::open(folder.path(), &tiny()).unwrap_err(), folder.path());
    assert!(error.starts_with("adapter_config.json: \"(\" is no regular expression: "), "{error}");
}

#[test]
fn settings_of_a_newer_peft_are_reported() {
    let folder =
        changed(&[("peft_version", json!("9")), ("zeta", json!(3)), ("eta", json!(null)), ("iota", json!({}))]);
    assert_eq!(Adapter::open(folder.path(), &tiny()).unwrap().config.unknown, ["zeta"]);
}

#[test]
fn weights_and_settings_must_agree() {
    let prefix = "base_model.model.model.layers";
    let cases = [
        (vec![("target_modules", json!(["q_proj"]))],
         "adapter_model.safetensors: factors for model.layers.0.self_attn.v_proj, which adapter_config.json does not target".to_string()),
        (vec![("layers_to_transform", json!([0, 1, 2]))],
         "adapter_model.safetensors: no factors for model.layers.1.self_attn.q_proj, which adapter_config.json targets".into()),
        (vec![("r", json!(8))],
         format!("adapter_model.safetensors: {prefix}.0.self_attn.q_proj.lora_A.weight has shape [4, 64], expected [8, 64]; the adapter belongs to another base (tiny-llama)")),
    ];
    for (changes, message) in cases {
        let folder = changed(&changes);
        assert_eq!(words(Adapter::open(folder.path(), &tiny()).unwrap_err(), folder.path()), message);
    }
    let cut = tiny().with("num_hidden_layers", 2).unwrap();
    let folder = changed(&[]);
    assert_eq!(
        words(Adapter::open(folder.path(), &cut).unwrap_err(), folder.path()),
        "adapter_model.safetensors: factors for block 2, but the base has 2 blocks; the adapter belongs to another base (tiny-llama)"
    );
}

/// Overwrites the weights by tensors of these names and no elements.
fn with_tensors(names: &[&str]) -> String {
    let folder = changed(&[]);
    let views = names.iter().map(|name| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![0], &[]).unwrap();
        (*name, view)
    });
    let bytes = safetensors::serialize(views.collect::<BTreeMap<_, _>>(), None).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
    words(Adapter::open(folder.path(), &tiny()).unwrap_err(), folder.path())
}

#[test]
fn other_tensors_and_missing_files_are_refused() {
    let tail = "is no LoRA factor of a Llama's linear layers; it is not implemented";
    for name in
        ["base_model.model.lm_head.weight", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    {
        assert_eq!(with_tensors(&[name]), format!("adapter_model.safetensors: {name} {tail}"));
    }
    assert_eq!(with_tensors(&[]), "adapter_model.safetensors: no LoRA factors");
    let names: Vec<String> = [(0, "q"), (0, "v"), (2, "q"), (2, "v")]
        .map(|(i, p)| format!("base_model.model.model.layers.{i}.self_attn.{p}_proj.lora_B.weight"))
        .into();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let missing = names[0].replace("lora_B", "lora_A");
    assert_eq!(
        with_tensors(&names),
        format!("adapter_model.safetensors: no tensor {missing}, the other factor is there")
    );

    let folder = changed(&[]);
    let open = || words(Adapter::open(folder.path(), &tiny()).unwrap_err(), folder.path());
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin")).unwrap();
    assert_eq!(
        open(),
        "adapter_model.bin: a pickle, which can run code when it is read: load it where you trust it and save it again with PEFT's model.save_pretrained(folder)"
    );
    fs::remove_file(folder.path().join("adapter_model.bin")).unwrap();
    assert_eq!(open(), "adapter_model.safetensors: No such file or directory (os error 2)");
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert_eq!(
        open(),
        "adapter_config.json: No such file or directory (os error 2); expected a folder with adapter_config.json and adapter_model.safetensors"
    );
}
