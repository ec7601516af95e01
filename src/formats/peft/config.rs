use super::PeftError;
use super::targets::{self, Modules, Targets};
use crate::llama::config::Projection;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The settings of an adapter. What it adapts is known by its factors.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Name or path of the base model.
    pub base_model: Option<String>,
    /// Width of the low-rank products.
    pub rank: usize,
    /// Scale before the division by the rank.
    pub alpha: f64,
    /// Probability that an input is dropped in training.
    pub dropout: f32,
    /// Rank-stabilised (Kalajdzievski 2023, arXiv 2312.03732): divided by the root of the rank.
    pub rslora: bool,
    /// Settings in the file that this version does not know and ignores; a newer PEFT's.
    pub unknown: Vec<String>,
}

impl AdapterConfig {
    /// What `B A` is multiplied by: `alpha / rank`, or `alpha / sqrt(rank)` for a rank-stabilised adapter.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// `adapter_config.json` for an adapter of these layers.
    pub fn to_json(&self, adapted: &[(usize, Projection)]) -> String {
        let blocks: BTreeSet<usize> = adapted.iter().map(|(block, _)| *block).collect();
        let projections: BTreeSet<Projection> = adapted.iter().map(|(_, projection)| *projection).collect();
        // The usual case is some projections in some blocks; anything else is named module by module.
        let (modules, blocks) = if adapted.len() == blocks.len() * projections.len() {
            (json!(projections.iter().map(|p| p.module()).collect::<Vec<_>>()), json!(blocks))
        } else {
            (json!(adapted.iter().map(|&(b, p)| targets::module(b, p)).collect::<Vec<_>>()), Value::Null)
        };
        let whole = self.alpha.fract() == 0.0 && self.alpha.abs() < 1e15;
        let alpha = if whole { json!(self.alpha as i64) } else { json!(self.alpha) };
        // By way of f64's shortest text, so that 0.05 stays 0.05.
        let dropout: f64 = self.dropout.to_string().parse().unwrap_or(self.dropout.into());
        let config = json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": blocks,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.rslora
        });
        format!("{config:#}\n")
    }
}

/// The settings that are used, as PEFT spells them. Defaults are PEFT's.
#[derive(Deserialize)]
struct Fields {
    peft_type: String,
    base_model_name_or_path: Option<String>,
    #[serde(default = "eight")]
    r: usize,
    #[serde(default = "eight_real")]
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Option<Modules>,
    exclude_modules: Option<Modules>,
    layers_to_transform: Option<Layers>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

fn eight() -> usize {
    8
}

fn eight_real() -> f64 {
    8.0
}

/// Settings that change nothing about a trained adapter of plain LoRA.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

const NOT_IMPLEMENTED: &str = "not implemented; train with plain LoRA";

/// Settings that must be empty (null, false, or without elements).
const REFUSED: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Starting points that leave the base as it is.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// Settings read by [`Fields`] or checked one by one.
const READ: &[&str] = &[
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "use_rslora",
];

pub fn parse(path: &Path, text: &str) -> Result<(AdapterConfig, Targets), PeftError> {
    let failed = |message: String| PeftError::Config { path: path.into(), message };
    let json: Map<String, Value> = serde_json::from_str(text).map_err(|e| failed(format!("not a JSON object: {e}")))?;
    refuse(path, &json)?;
    let fields: Fields = serde_json::from_str(text).map_err(|e| failed(e.to_string()))?;
    if fields.peft_type != "LORA" {
        return Err(failed(format!("peft_type is {:?}; only LORA is implemented", fields.peft_type)));
    }
    if fields.r == 0 || fields.r > 1 << 16 {
        return Err(failed(format!("r is {}, expected a rank from 1 to 65536", fields.r)));
    }
    if !fields.lora_alpha.is_finite() || !(0.0..1.0).contains(&fields.lora_dropout) {
        let (alpha, dropout) = (fields.lora_alpha, fields.lora_dropout);
        return Err(failed(format!(
            "lora_alpha {alpha}, lora_dropout {dropout}: expected a number, and one in [0, 1)"
        )));
    }
    let modules = fields.target_modules.ok_or_else(|| failed("target_modules is missing".into()))?;
    let blocks = match fields.layers_to_transform {
        None => None,
        Some(Layers::One(block)) => Some(vec![block]),
        Some(Layers::Some(blocks)) => Some(blocks).filter(|blocks| !blocks.is_empty()),
    };
    if blocks.is_some() && matches!(modules, Modules::Pattern(_)) {
        return Err(failed("layers_to_transform needs target_modules to be a list".into()));
    }
    let config = AdapterConfig {
        base_model: fields.base_model_name_or_path,
        rank: fields.r,
        alpha: fields.lora_alpha,
        dropout: fields.lora_dropout,
        rslora: fields.use_rslora,
        unknown: unknown(&json),
    };
    Ok((config, Targets { modules, excluded: fields.exclude_modules, blocks }))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn refuse(path: &Path, json: &Map<String, Value>) -> Result<(), PeftError> {
    let refused = |setting: &str, value: &Value, reason| {
        let (setting, found) = (setting.into(), value.to_string());
        Err(PeftError::Unsupported { path: path.into(), setting, found, reason })
    };
    for setting in REFUSED {
        if let Some(value) = json.get(*setting).filter(|value| !is_empty(value)) {
            return refused(setting, value, NOT_IMPLEMENTED);
        }
    }
    match json.get("bias") {
        None | Some(Value::Null) => {}
        Some(Value::String(bias)) if bias == "none" => {}
        Some(value) => return refused("bias", value, "biases are not implemented"),
    }
    match json.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(start)) if PLAIN_STARTS.contains(&start.as_str()) => Ok(()),
        Some(value) => refused(
            "init_lora_weights",
            value,
            "the adapter belongs to a base that was changed when it started; convert it to plain LoRA with PEFT",
        ),
    }
}

fn unknown(json: &Map<String, Value>) -> Vec<String> {
    let known = |key: &str| [HARMLESS, REFUSED, READ].iter().any(|list| list.contains(&key));
    json.iter().filter(|(key, value)| !known(key) && !is_empty(value)).map(|(key, _)| key.clone()).collect()
}
