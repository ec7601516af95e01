use kiungo::llama::config::{Config, Projection, Projections};
use kiungo::ops::rope::Scaling;
use serde_json::{Value, json};
use std::path::Path;

/// Llama-3.1-8B's, as its authors wrote it.
fn llama31() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3"
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256
    })
}

fn parse(json: &Value) -> Result<Config, String> {
    Config::parse(Path::new("config.json"), &json.to_string()).map_err(|e| e.to_string())
}

/// A field by dotted path set, or removed where `value` is null.
fn patch(json: &mut Value, path: &str, value: Value) {
    let (object, key) = match path.split_once('.') {
        Some((object, key)) => (&mut json[object], key),
        None => (json, path),
    };
    if object.is_null() {
        *object = json!({});
    }
    let object = object.as_object_mut().expect("an object");
    match value {
        Value::Null => drop(object.remove(key)),
        value => drop(object.insert(key.into(), value)),
    }
}

fn patched(patches: &[(&str, Value)]) -> Value {
    let mut json = llama31();
    patches.iter().for_each(|(path, value)| patch(&mut json, path, value.clone()));
    json
}

#[test]
fn llama31_is_read_whole() {
    let config = parse(&llama31()).unwrap();
    assert_eq!((config.hidden_size, config.intermediate_size, config.layers), (4096, 14336, 32));
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (32, 8, 128));
    assert_eq!((config.vocab_size, config.max_positions), (128256, 131072));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.tie_word_embeddings), (1e-5, 500000.0, false));
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(128000), None));
    assert_eq!(config.eos_token_ids, [128001, 128008, 128009]);
    assert_eq!((config.dtype.as_deref(), config.quantization), (Some("bfloat16"), None));
    let original_max_position = 8192.0;
    let scaling = Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position };
    assert_eq!(config.rope_scaling, scaling);
    let shapes = Projection::ALL.map(|p| config.shape(p));
    let (hidden, key, wide) = (4096, 1024, 14336);
    let expected = [hidden, key, key, hidden, wide, wide].map(|out| [out, hidden]);
    assert_eq!(shapes[..6], expected);
    assert_eq!(shapes[6], [hidden, wide]);
}

#[test]
fn other_members_of_the_family_are_read() {
    // Llama 2: no head_dim, no rope_theta, rope_scaling null, all heads alike, pad -1.
    let llama2 = patched(&[
        ("rope_scaling", Value::Null),
        ("rope_theta", Value::Null),
        ("num_key_value_heads", Value::Null),
        ("pad_token_id", json!(-1)),
        ("eos_token_id", json!(2)),
        ("tie_word_embeddings", Value::Null),
    ]);
    let config = parse(&llama2).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling, config.kv_heads), (10000.0, Scaling::None, 32));
    assert_eq!((config.eos_token_ids, config.pad_token_id, config.tie_word_embeddings), (vec![2], None, false));

    // transformers 5 moves theta and scaling into rope_parameters, and torch_dtype becomes dtype.
    let smol = patched(&[
        ("rope_scaling", Value::Null),
        ("rope_theta", Value::Null),
        ("torch_dtype", Value::Null),
        ("rope_parameters", json!({"rope_theta": 100000.0, "rope_type": "default"})),
        ("hidden_size", json!(576)),
        ("num_attention_heads", json!(9)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(64)),
        ("bos_token_id", json!([1, 7])),
        ("tie_word_embeddings", json!(true)),
        ("dtype", json!("float32")),
    ]);
    let config = parse(&smol).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling, config.head_dim), (100000.0, Scaling::None, 64));
    assert_eq!((config.bos_token_id, config.tie_word_embeddings), (Some(1), true));
    assert_eq!(config.dtype.as_deref(), Some("float32"));
    assert_eq!((config.query_size(), config.key_size()), (576, 192));

    // A patched file: `type` was added for an old reader, `rope_type` holds.
    let both = patched(&[("rope_scaling.type", json!("linear"))]);
    assert!(matches!(parse(&both).unwrap().rope_scaling, Scaling::Llama3 { .. }));
    let old = patched(&[("rope_scaling", json!({"type": "linear", "factor": 4.0}))]);
    assert_eq!(parse(&old).unwrap().rope_scaling, Scaling::Linear { factor: 4.0 });
}

#[test]
fn nf4_is_recognised() {
    let nf4 = json!({
        "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true
    });
    let config = parse(&patched(&[("quantization_config", nf4)])).unwrap();
    assert!(config.quantization.unwrap().double);
    assert_eq!(config.stored_as("bfloat16").unwrap().quantization, None);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let cases = [
        (
            "model_type",
            json!("mistral"),
            "config.json: unknown architecture: model_type is \"mistral\"; only llama is implemented (Llama 2, 3, 3.1, 3.2, SmolLM2)",
        ),
        (
            "model_type",
            Value::Null,
            "config.json: unknown architecture: model_type is missing; only llama is implemented (Llama 2, 3, 3.1, 3.2, SmolLM2)",
        ),
        (
            "hidden_act",
            json!("gelu"),
            "config.json: hidden_act is \"gelu\", expected silu: nothing else is implemented",
        ),
        (
            "attention_bias",
            json!(true),
            "config.json: attention_bias is true, expected false: biases are not implemented",
        ),
        ("mlp_bias", json!(true), "config.json: mlp_bias is true, expected false: biases are not implemented"),
        ("hidden_size", Value::Null, "config.json: hidden_size is missing, expected a positive integer"),
        ("hidden_size", json!(100), "config.json: hidden_size is 100, expected a multiple of 8"),
        (
            "intermediate_size",
            json!("wide"),
            "config.json: intermediate_size is \"wide\", expected a positive integer below 2^31",
        ),
        ("num_hidden_layers", json!(0), "config.json: num_hidden_layers is 0, expected a positive integer below 2^31"),
        (
            "num_attention_heads",
            json!(24),
            "config.json: num_attention_heads is 24, expected hidden_size (4096) divided by a multiple of 8 from 8 to 128",
        ),
        (
            "num_key_value_heads",
            json!(5),
            "config.json: num_key_value_heads is 5, expected a divisor of num_attention_heads (32)",
        ),
        ("head_dim", json!(256), "config.json: head_dim is 256, expected a multiple of 8 from 8 to 128"),
        ("rms_norm_eps", json!(-1.0), "config.json: rms_norm_eps is -1.0, expected a positive number"),
        ("vocab_size", json!(1e30), "config.json: vocab_size is 1e+30, expected a positive integer below 2^31"),
        (
            "eos_token_id",
            json!(["x"]),
            "config.json: eos_token_id is an array of 1, expected a token id, a list of them, or null",
        ),
        ("rope_scaling", json!(8), "config.json: rope_scaling is 8, expected an object or null"),
        (
            "rope_scaling.rope_type",
            json!("yarn"),
            "config.json: rope_scaling.rope_type is \"yarn\", expected default, linear or llama3: no other scaling is implemented",
        ),
        ("rope_scaling.factor", json!(0.5), "config.json: rope_scaling.factor is 0.5, expected at least 1"),
        (
            "rope_scaling.high_freq_factor",
            json!(1.0),
            "config.json: rope_scaling.high_freq_factor is 1.0, expected more than low_freq_factor (1)",
        ),
        (
            "rope_scaling.original_max_position_embeddings",
            Value::Null,
            "config.json: rope_scaling.original_max_position_embeddings is missing, expected a positive integer",
        ),
        (
            "rope_parameters.rope_theta",
            json!(10000.0),
            "config.json: rope_parameters.rope_theta is 10000.0, expected 500000, as elsewhere in the file",
        ),
        (
            "rope_parameters.rope_type",
            json!("default"),
            "config.json: rope_parameters.rope_type is \"default\", expected the same scaling as in rope_scaling",
        ),
        (
            "partial_rotary_factor",
            json!(0.5),
            "config.json: partial_rotary_factor is 0.5, expected 1: a partial rotation is not implemented",
        ),
        ("tie_word_embeddings", json!("no"), "config.json: tie_word_embeddings is \"no\", expected true or false"),
        (
            "quantization_config.quant_method",
            json!("gptq"),
            "config.json: quantization_config.quant_method is \"gptq\", expected bitsandbytes: nothing else is implemented",
        ),
        (
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "config.json: quantization_config.load_in_4bit is missing, expected true: only bitsandbytes' NF4 is implemented",
        ),
        (
            "quantization_config",
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
            "config.json: quantization_config.bnb_4bit_quant_type is \"fp4\", expected nf4: nothing else is implemented",
        ),
        (
            "quantization_config",
            json!({"load_in_4bit": true}),
            "config.json: quantization_config.bnb_4bit_quant_type is missing, expected nf4: nothing else is implemented",
        ),
    ];
    for (key, value, message) in cases {
        assert_eq!(parse(&patched(&[(key, value)])).unwrap_err(), message);
    }
    let read = |text| Config::parse(Path::new("c"), text).unwrap_err().to_string();
    assert_eq!(read("[1, 2]"), "c: not a JSON object: found an array of 2");
    assert_eq!(read("{"), "c: not a JSON object: EOF while parsing an object at line 1 column 1");
}

#[test]
fn changed_fields_stay_in_place() {
    let config = parse(&llama31()).unwrap();
    let cut = config.with("num_hidden_layers", 2).unwrap().stored_as("float32").unwrap();
    assert_eq!((cut.layers, cut.dtype.as_deref()), (2, Some("float32")));
    let expected = config.to_json().replace("_layers\": 32", "_layers\": 2").replace("bfloat16", "float32");
    assert_eq!(cut.to_json(), expected);
    assert_eq!(Config::parse(Path::new("config.json"), &cut.to_json()).unwrap(), cut);
    let error = config.with("num_hidden_layers", "two").unwrap_err();
    assert_eq!(error.to_string(), "config.json: num_hidden_layers is \"two\", expected a positive integer below 2^31");
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Config::open(folder.path()).unwrap_err().to_string();
    let path = folder.path().join("config.json");
    let expected = "No such file or directory (os error 2); expected a checkpoint folder in Hugging Face's layout";
    assert_eq!(error, format!("{}: {expected}", path.display()));
}

#[test]
fn projections_are_parsed_and_printed() {
    use Projection::*;
    let some: Projections = "v, q,v_proj".parse().unwrap();
    assert_eq!((&*some, some.to_string().as_str()), ([Q, V].as_slice(), "q,v"));
    assert_eq!("all".parse::<Projections>().unwrap().to_string(), "all");
    assert_eq!(Gate.path(), "mlp.gate_proj");
    let error = "q,w".parse::<Projections>().unwrap_err().to_string();
    assert_eq!(error, "`w` is not a projection; expected all, or some of q,k,v,o,gate,up,down");
}
