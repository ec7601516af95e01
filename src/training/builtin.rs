//! The built-in input: a small Llama with random weights, Swahili-English word pairs and a small question set in both
//! languages, so that every command has something to run on. Words and questions were written for this project.
//!
//! The pairs are one to one. Verbs are infinitives in Swahili (`kusoma`) and bare in English (`read`); adjectives are
//! stems (`zuri`).

use crate::llama::config::{self, Config, ConfigError, Projection};
use half::bf16;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = include_str!("builtin/config.json");
const TOKENIZER: &str = include_str!("builtin/tokenizer.json");
const WORDS: &str = include_str!("builtin/words.sw-en.tsv");
const QUESTIONS: [(&str, &str); 2] =
    [("en", include_str!("builtin/xquad.en.json")), ("sw", include_str!("builtin/xquad.sw.json"))];

/// Languages of the question set.
pub const LANGUAGES: [&str; 2] = [QUESTIONS[0].0, QUESTIONS[1].0];

/// Seed of the weights that the commands use.
pub const SEED: u64 = 1;

/// Where [`write_to`] put things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Model folder in Hugging Face's layout.
    pub model: PathBuf,
    /// Word pairs, TSV with a header: Swahili, English.
    pub pairs: PathBuf,
    /// Folder of `xquad.LANG.json` files, for [`LANGUAGES`].
    pub xquad: PathBuf,
}

/// Why the built-in input could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The weights could not be written.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// The config that is compiled in is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Writes the model folder and the data below `folder`, which is made. The same seed gives the same bytes.
pub fn write_to(folder: &Path, seed: u64) -> Result<Builtin, BuiltinError> {
    let at =
        Builtin { model: folder.join("model"), pairs: folder.join("words.sw-en.tsv"), xquad: folder.join("xquad") };
    for folder in [&at.model, &at.xquad] {
        fs::create_dir_all(folder).map_err(|source| BuiltinError::Write { path: folder.clone(), source })?;
    }
    write(&at.pairs, WORDS)?;
    for (language, questions) in QUESTIONS {
        write(&at.xquad.join(format!("xquad.{language}.json")), questions)?;
    }
    write(&at.model.join(config::FILE), CONFIG)?;
    write(&at.model.join("tokenizer.json"), TOKENIZER)?;
    write_weights(&at.model.join("model.safetensors"), seed)?;
    Ok(at)
}

fn write(path: &Path, text: &str) -> Result<(), BuiltinError> {
    fs::write(path, text).map_err(|source| BuiltinError::Write { path: path.into(), source })
}

fn write_weights(path: &Path, seed: u64) -> Result<(), BuiltinError> {
    let config = Config::parse(&path.with_file_name(config::FILE), CONFIG)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let weights: Vec<(String, Vec<usize>, Vec<bf16>)> = layout(&config)
        .into_iter()
        .map(|(name, shape)| {
            let values = values(&mut rng, &shape);
            (name, shape, values)
        })
        .collect();
    let failed = |source| BuiltinError::Weights { path: path.into(), source };
    let views: Result<Vec<_>, _> = weights
        .iter()
        .map(|(name, shape, values)| {
            let view = TensorView::new(Dtype::BF16, shape.clone(), bytemuck::cast_slice(values))?;
            Ok((name.clone(), view))
        })
        .collect();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views.map_err(failed)?, Some(metadata), path).map_err(failed)
}

/// Every weight by Hugging Face's name, in the order they are drawn in.
fn layout(config: &Config) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut weights = vec![("model.embed_tokens.weight".to_string(), vec![config.vocab_size, hidden])];
    for block in 0..config.layers {
        let name = |part: &str| format!("model.layers.{block}.{part}.weight");
        weights.push((name("input_layernorm"), vec![hidden]));
        weights.push((name("post_attention_layernorm"), vec![hidden]));
        weights.extend(Projection::ALL.map(|p| (name(p.path()), config.shape(p).to_vec())));
    }
    weights.push(("model.norm.weight".into(), vec![hidden]));
    weights
}

/// Ones for a norm; else uniform with variance `1 / columns`, so that states keep their size. Uniform and not normal:
/// it needs no logarithm, whose last bit differs between platforms.
fn values(rng: &mut StdRng, shape: &[usize]) -> Vec<bf16> {
    let [rows, columns] = *shape else { return vec![bf16::ONE; shape.iter().product()] };
    let bound = (3.0 / columns as f32).sqrt();
    let mut uniform = || ((rng.next_u32() >> 8) as f32 + 0.5) / (1 << 23) as f32 - 1.0;
    (0..rows * columns).map(|_| bf16::from_f32(bound * uniform())).collect()
}
