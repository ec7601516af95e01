//! The architecture of a Llama, from the `config.json` of a Hugging Face checkpoint.
//!
//! Reads what Llama 2, 3, 3.1, 3.2 and SmolLM2 write. Whatever would change the arithmetic and is not implemented
//! (biases, other activations, other rotary scalings, other quantisations) is refused by name.

use crate::ops::rope::Scaling;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Name of the file in a checkpoint's folder.
pub const FILE: &str = "config.json";

/// Architectures that need no file.
const NAMED: [(&str, &str); 1] = [("llama-3-8b", include_str!("presets/llama-3-8b.json"))];

/// Base of the rotary frequencies where the file names none, as in transformers.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// One of the seven linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Queries: `[heads * head_dim, hidden]`.
    Q,
    /// Keys: `[kv_heads * head_dim, hidden]`.
    K,
    /// Values: `[kv_heads * head_dim, hidden]`.
    V,
    /// Output of attention: `[hidden, heads * head_dim]`.
    O,
    /// Gate of the MLP: `[intermediate, hidden]`.
    Gate,
    /// Up projection of the MLP: `[intermediate, hidden]`.
    Up,
    /// Down projection of the MLP: `[hidden, intermediate]`.
    Down,
}

impl Projection {
    /// All seven, in the order of a block's forward pass.
    pub const ALL: [Projection; 7] = {
        use Projection::*;
        [Q, K, V, O, Gate, Up, Down]
    };

    /// Module path inside a block, e.g. `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Projection::Q => "self_attn.q_proj",
            Projection::K => "self_attn.k_proj",
            Projection::V => "self_attn.v_proj",
            Projection::O => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        }
    }

    /// Hugging Face's name, e.g. `q_proj`.
    pub fn module(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module().trim_end_matches("_proj"))
    }
}

/// A word that names no projection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a projection; expected all, or some of q,k,v,o,gate,up,down")]
pub struct UnknownProjection(String);

impl FromStr for Projection {
    type Err = UnknownProjection;

    /// `q` or `q_proj`.
    fn from_str(word: &str) -> Result<Projection, UnknownProjection> {
        let named = |p: &Projection| p.module() == word || p.to_string() == word;
        Projection::ALL.into_iter().find(named).ok_or_else(|| UnknownProjection(word.into()))
    }
}

/// Some of a block's projections: each once, in the order of [`Projection::ALL`]. From `q,v` or `all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projections(Vec<Projection>);

impl Projections {
    /// All seven.
    pub fn all() -> Projections {
        Projections(Projection::ALL.to_vec())
    }
}

impl FromIterator<Projection> for Projections {
    fn from_iter<I: IntoIterator<Item = Projection>>(projections: I) -> Projections {
        let mut projections: Vec<Projection> = projections.into_iter().collect();
        projections.sort();
        projections.dedup();
        Projections(projections)
    }
}

impl std::ops::Deref for Projections {
    type Target = [Projection];
    fn deref(&self) -> &[Projection] {
        &self.0
    }
}

impl FromStr for Projections {
    type Err = UnknownProjection;
    fn from_str(words: &str) -> Result<Projections, UnknownProjection> {
        match words.trim() {
            "all" => Ok(Projections::all()),
            words => words.split(',').map(|word| word.trim().parse()).collect(),
        }
    }
}

impl fmt::Display for Projections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == Projection::ALL.len() {
            return f.write_str("all");
        }
        f.write_str(&self.0.iter().map(Projection::to_string).collect::<Vec<_>>().join(","))
    }
}

/// How the linear weights of the checkpoint are quantised: bitsandbytes' NF4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// The scales are quantised too.
    pub double: bool,
}

/// A Llama's sizes and constants, and the JSON they came from.
///
/// Change it by [`with`](Config::with) and [`without`](Config::without), which keep the two in step.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their stretch.
    pub rope_scaling: Scaling,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Beginning of a sequence; the first where the file lists several.
    pub bos_token_id: Option<u32>,
    /// Ends of a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// Element type of the stored weights, e.g. `bfloat16`.
    pub dtype: Option<String>,
    /// How the stored weights are quantised.
    pub quantization: Option<Quantization>,
    path: PathBuf,
    json: Map<String, Value>,
}

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; expected a checkpoint folder in Hugging Face's layout", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a JSON object.
    #[error("{}: not a JSON object: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        message: String,
    },
    /// The model is not a Llama.
    #[error(
        "{}: unknown architecture: model_type is {found}; only llama is implemented (Llama 2, 3, 3.1, 3.2, SmolLM2)",
        path.display()
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
    },
    /// A field is missing, or has a value that is wrong or not implemented.
    #[error("{}: {key} is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field; with dots where it is nested.
        key: String,
        /// Its value, or `missing`.
        found: String,
        /// What it may be.
        expected: String,
    },
}

impl Config {
    /// Reads `config.json` in a checkpoint's folder.
    pub fn open(folder: &Path) -> Result<Config, ConfigError> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Config::parse(&path, &text)
    }

    /// The architecture of a model by its name (`llama-3-8b`), or None for one that is not built in.
    pub fn named(name: &str) -> Option<Config> {
        let (_, text) = NAMED.iter().find(|(known, _)| *known == name)?;
        Config::parse(Path::new(name), text).ok()
    }

    /// Names of the architectures that are built in.
    pub fn names() -> Vec<&'static str> {
        NAMED.iter().map(|(name, _)| *name).collect()
    }

    /// Reads the text of a `config.json`; `path` is for error messages.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let fail = |message: String| ConfigError::Json { path: path.into(), message };
        match serde_json::from_str(text).map_err(|e| fail(e.to_string()))? {
            Value::Object(json) => Config::from_json(path.into(), json),
            other => Err(fail(format!("found {}", brief(&other)))),
        }
    }

    /// The same with one field of the JSON set, kept in its place.
    pub fn with(&self, key: &str, value: impl Into<Value>) -> Result<Config, ConfigError> {
        let mut json = self.json.clone();
        json.insert(key.into(), value.into());
        Config::from_json(self.path.clone(), json)
    }

    /// The same without one field of the JSON.
    pub fn without(&self, key: &str) -> Result<Config, ConfigError> {
        let mut json = self.json.clone();
        json.shift_remove(key);
        Config::from_json(self.path.clone(), json)
    }

    /// The same for weights stored dense as `dtype` (`float32` or `bfloat16`), under the name the file uses.
    pub fn stored_as(&self, dtype: &str) -> Result<Config, ConfigError> {
        let mut config = self.without("quantization_config")?;
        let present: Vec<_> = ["dtype", "torch_dtype"].into_iter().filter(|k| config.json.contains_key(*k)).collect();
        let keys = if present.is_empty() { vec!["torch_dtype"] } else { present };
        for key in keys {
            config = config.with(key, dtype)?;
        }
        Ok(config)
    }

    /// The same for linear weights stored in NF4, beside bf16: the settings that transformers gives to bitsandbytes.
    pub fn stored_as_nf4(&self, double: bool) -> Result<Config, ConfigError> {
        self.stored_as("bfloat16")?.with(
            "quantization_config",
            json!({
                "quant_method": "bitsandbytes",
                "load_in_4bit": true,
                "load_in_8bit": false,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": double,
                "bnb_4bit_compute_dtype": "bfloat16",
                "bnb_4bit_quant_storage": "uint8",
                "llm_int8_skip_modules": null,
            }),
        )
    }

    /// The JSON, indented, fields in the order of the file that was read.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.json.clone()))
    }

    /// Width of all queries of a token.
    pub fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys (and of all values) of a token.
    pub fn key_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Shape of a projection's weight: `[out, in]`.
    pub fn shape(&self, projection: Projection) -> [usize; 2] {
        match projection {
            Projection::Q => [self.query_size(), self.hidden_size],
            Projection::K | Projection::V => [self.key_size(), self.hidden_size],
            Projection::O => [self.hidden_size, self.query_size()],
            Projection::Gate | Projection::Up => [self.intermediate_size, self.hidden_size],
            Projection::Down => [self.hidden_size, self.intermediate_size],
        }
    }

    /// Parameters of one block: its linear layers and its two norms.
    pub fn block_parameters(&self) -> usize {
        let linear: usize = Projection::ALL.iter().map(|&p| self.shape(p).iter().product::<usize>()).sum();
        linear + 2 * self.hidden_size
    }

    fn from_json(path: PathBuf, json: Map<String, Value>) -> Result<Config, ConfigError> {
        let fields = Fields { path: &path, prefix: "", json: &json };
        match fields.get("model_type").and_then(Value::as_str) {
            Some("llama") => {}
            _ => return Err(ConfigError::Architecture { found: fields.found("model_type"), path }),
        }
        fields.only("hidden_act", &["silu"])?;
        fields.unset("attention_bias")?;
        fields.unset("mlp_bias")?;
        fields.whole_rotation()?;
        let hidden_size = fields.multiple_of_8("hidden_size")?;
        let intermediate_size = fields.multiple_of_8("intermediate_size")?;
        let layers = fields.count("num_hidden_layers")?;
        let heads = fields.count("num_attention_heads")?;
        let kv_heads = fields.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.error("num_key_value_heads", format!("a divisor of num_attention_heads ({heads})")));
        }
        let head_dim = fields.head_dim(hidden_size, heads)?;
        let vocab_size = fields.count("vocab_size")?;
        let max_positions = fields.count("max_position_embeddings")?;
        let rms_norm_eps = fields.positive("rms_norm_eps")? as f32;
        let rope_theta = fields.rope_theta()?;
        let rope_scaling = fields.rope_scaling()?;
        let tie_word_embeddings = fields.flag("tie_word_embeddings")?;
        let bos_token_id = fields.token_ids("bos_token_id")?.first().copied();
        let eos_token_ids = fields.token_ids("eos_token_id")?;
        let pad_token_id = fields.token_ids("pad_token_id")?.first().copied();
        let dtype = ["dtype", "torch_dtype"].into_iter().find_map(|key| fields.get(key)?.as_str().map(String::from));
        let quantization = fields.quantization()?;
        Ok(Config {
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size,
            max_positions,
            rms_norm_eps,
            rope_theta,
            rope_scaling,
            tie_word_embeddings,
            bos_token_id,
            eos_token_ids,
            pad_token_id,
            dtype,
            quantization,
            path,
            json,
        })
    }
}

/// A JSON value in a few words.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
        other => other.to_string(),
    }
}

/// The fields of an object of the file, with errors that name them.
struct Fields<'a> {
    path: &'a Path,
    /// Path of the object in the file, with a dot at its end; empty for the file itself.
    prefix: &'static str,
    json: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// An object inside this one.
    fn object(&self, key: &'static str, prefix: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(json)) => Ok(Some(Fields { path: self.path, prefix, json })),
            Some(_) => Err(self.error(key, "an object or null")),
        }
    }

    fn found(&self, key: &str) -> String {
        self.get(key).map_or_else(|| "missing".into(), brief)
    }

    fn error(&self, key: &str, expected: impl Into<String>) -> ConfigError {
        let (path, key_path) = (self.path.into(), format!("{}{key}", self.prefix));
        ConfigError::Field { path, key: key_path, found: self.found(key), expected: expected.into() }
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Products of two sizes must not overflow, however wrong the file is.
        let count = value.as_u64().filter(|&n| n > 0 && n < 1 << 31);
        count.map(|n| Some(n as usize)).ok_or_else(|| self.error(key, "a positive integer below 2^31"))
    }

    fn count(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_count(key)?.ok_or_else(|| self.error(key, "a positive integer"))
    }

    fn multiple_of_8(&self, key: &str) -> Result<usize, ConfigError> {
        let n = self.count(key)?;
        if n.is_multiple_of(8) { Ok(n) } else { Err(self.error(key, "a multiple of 8")) }
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
        const EXPECTED: &str = "a multiple of 8 from 8 to 128";
        let allowed = |dim: &usize| (8..=128).contains(dim) && dim.is_multiple_of(8);
        match self.optional_count("head_dim")? {
            Some(dim) if allowed(&dim) => Ok(dim),
            Some(_) => Err(self.error("head_dim", EXPECTED)),
            None => {
                Some(hidden_size / heads).filter(|dim| dim * heads == hidden_size).filter(allowed).ok_or_else(|| {
                    self.error("num_attention_heads", format!("hidden_size ({hidden_size}) divided by {EXPECTED}"))
                })
            }
        }
    }

    fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let number = self.get(key).and_then(Value::as_f64).filter(|&x| x > 0.0 && x.is_finite());
        number.ok_or_else(|| self.error(key, "a positive number"))
    }

    /// False where it is missing.
    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.error(key, "true or false")),
        }
    }

    /// Not implemented: must be false or missing.
    fn unset(&self, key: &str) -> Result<(), ConfigError> {
        if self.flag(key)? { Err(self.error(key, "false: biases are not implemented")) } else { Ok(()) }
    }

    /// Missing, or one of the values implemented.
    fn only(&self, key: &str, implemented: &[&str]) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if !value.as_str().is_some_and(|word| implemented.contains(&word)) => {
                Err(self.error(key, format!("{}: nothing else is implemented", implemented.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// An integer, a list of integers, or none. Older files write -1 for none.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let items = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Number(n)) if n.as_i64() == Some(-1) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let ids = items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        ids.collect::<Option<_>>().ok_or_else(|| self.error(key, "a token id, a list of them, or null"))
    }

    fn whole_rotation(&self) -> Result<(), ConfigError> {
        match self.get("partial_rotary_factor") {
            Some(value) if value.as_f64() != Some(1.0) => {
                Err(self.error("partial_rotary_factor", "1: a partial rotation is not implemented"))
            }
            _ => Ok(()),
        }
    }

    /// `rope_parameters` (transformers 5) and `rope_scaling` (before). A file may hold both.
    fn rope_objects(&self) -> Result<impl Iterator<Item = Fields<'a>> + use<'a>, ConfigError> {
        let scaling = self.object("rope_scaling", "rope_scaling.")?;
        Ok(scaling.into_iter().chain(self.object("rope_parameters", "rope_parameters.")?))
    }

    fn rope_theta(&self) -> Result<f64, ConfigError> {
        let mut theta = None;
        let file = Fields { path: self.path, prefix: "", json: self.json };
        for fields in std::iter::once(file).chain(self.rope_objects()?) {
            if fields.get("rope_theta").is_none() {
                continue;
            }
            let value = fields.positive("rope_theta")?;
            if theta.is_some_and(|theta| theta != value) {
                return Err(fields.error("rope_theta", format!("{}, as elsewhere in the file", theta.unwrap_or(value))));
            }
            theta = Some(value);
        }
        Ok(theta.unwrap_or(DEFAULT_ROPE_THETA))
    }

    fn rope_scaling(&self) -> Result<Scaling, ConfigError> {
        let mut found = None;
        for fields in self.rope_objects()? {
            let scaling = fields.scaling()?;
            if found.is_some_and(|found| found != scaling) {
                return Err(fields.error("rope_type", "the same scaling as in rope_scaling"));
            }
            found = Some(scaling);
        }
        Ok(found.unwrap_or(Scaling::None))
    }

    /// `rope_type` wins over `type`, as in transformers: some files were patched with both.
    fn scaling(&self) -> Result<Scaling, ConfigError> {
        self.whole_rotation()?;
        let key = if self.get("rope_type").is_some() { "rope_type" } else { "type" };
        match self.get(key).map(Value::as_str) {
            None | Some(Some("default")) => Ok(Scaling::None),
            Some(Some("linear")) => Ok(Scaling::Linear { factor: self.factor()? }),
            Some(Some("llama3")) => self.llama3(),
            Some(_) => Err(self.error(key, "default, linear or llama3: no other scaling is implemented")),
        }
    }

    fn factor(&self) -> Result<f64, ConfigError> {
        let factor = self.positive("factor")?;
        if factor >= 1.0 { Ok(factor) } else { Err(self.error("factor", "at least 1")) }
    }

    fn llama3(&self) -> Result<Scaling, ConfigError> {
        let low_freq_factor = self.positive("low_freq_factor")?;
        let high_freq_factor = self.positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let expected = format!("more than low_freq_factor ({low_freq_factor})");
            return Err(self.error("high_freq_factor", expected));
        }
        let original_max_position = self.count("original_max_position_embeddings")? as f64;
        Ok(Scaling::Llama3 { factor: self.factor()?, low_freq_factor, high_freq_factor, original_max_position })
    }

    fn quantization(&self) -> Result<Option<Quantization>, ConfigError> {
        let Some(fields) = self.object("quantization_config", "quantization_config.")? else { return Ok(None) };
        fields.only("quant_method", &["bitsandbytes"])?;
        if !fields.flag("load_in_4bit")? {
            return Err(fields.error("load_in_4bit", "true: only bitsandbytes' NF4 is implemented"));
        }
        // bitsandbytes' own default is fp4, so a missing type is not NF4.
        match fields.get("bnb_4bit_quant_type").and_then(Value::as_str) {
            Some("nf4") => Ok(Some(Quantization { double: fields.flag("bnb_4bit_use_double_quant")? })),
            _ => Err(fields.error("bnb_4bit_quant_type", "nf4: nothing else is implemented")),
        }
    }
}
