//! The built-in input: a small Llama with random weights, Swahili-English word pairs and a small question set in both
//! languages, so that every command has something to run on. Words and questions were written for this project.
//!
//! The pairs are one to one. Verbs are infinitives in Swahili (`kusoma`) and bare in English (`read`); adjectives are
//! stems (`zuri`).

use crate::device::DType;
use crate::formats::output::{self, OutputError};
use crate::formats::safetensors::{CheckpointError, TensorLayout, write_safetensors};
use crate::formats::tokenizer;
use crate::llama::config::{self, Config, ConfigError, Projection};
use half::bf16;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::borrow::Cow;
use std::collections::BTreeMap;
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

/// Epochs that the built-in model needs to learn its words: more than a pretrained one.
pub const EPOCHS: usize = 60;

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
    /// A text file, or a folder.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// The config that is compiled in is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Builtin {
    /// The places below a folder.
    pub fn at(folder: &Path) -> Builtin {
        Builtin { model: folder.join("model"), pairs: folder.join("words.sw-en.tsv"), xquad: folder.join("xquad") }
    }

    /// Whether these pairs are there, as they were written.
    pub fn is_there(&self) -> bool {
        std::fs::read(&self.pairs).is_ok_and(|pairs| pairs == WORDS.as_bytes())
    }
}

/// The words of the built-in pairs, Swahili and English by turns.
pub fn words() -> impl Iterator<Item = &'static str> {
    WORDS.lines().skip(1).flat_map(|line| line.split('\t').take(2))
}

/// Writes the model folder and the data below `folder`, which must be absent or empty. The same seed gives the same bytes.
pub fn write_to(folder: &Path, seed: u64) -> Result<Builtin, BuiltinError> {
    let at = Builtin::at(folder);
    for folder in [folder, &at.model, &at.xquad] {
        output::create_new(folder)?;
    }
    output::write_file(&at.pairs, WORDS)?;
    for (language, questions) in QUESTIONS {
        output::write_file(&at.xquad.join(format!("xquad.{language}.json")), questions)?;
    }
    output::write_file(&at.model.join(config::FILE), CONFIG)?;
    output::write_file(&at.model.join(tokenizer::FILE), TOKENIZER)?;
    write_weights(&at.model.join("model.safetensors"), seed)?;
    Ok(at)
}

fn write_weights(path: &Path, seed: u64) -> Result<(), BuiltinError> {
    let config = Config::parse(&path.with_file_name(config::FILE), CONFIG)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(path, &layout(&config), &metadata, |weight| {
        let bytes = bytemuck::cast_slice(&values(&mut rng, weight)).to_vec();
        Ok::<_, CheckpointError>(Cow::Owned(bytes))
    })?;
    Ok(())
}

/// Every weight by Hugging Face's name, in the order they are drawn in.
fn layout(config: &Config) -> Vec<TensorLayout> {
    let hidden = config.hidden_size;
    let bf16 = |name: String, shape: &[usize]| TensorLayout::new(name, DType::Bf16, shape);
    let mut weights = vec![bf16("model.embed_tokens.weight".into(), &[config.vocab_size, hidden])];
    for block in 0..config.layers {
        let name = |part: &str| format!("model.layers.{block}.{part}.weight");
        weights.push(bf16(name("input_layernorm"), &[hidden]));
        weights.push(bf16(name("post_attention_layernorm"), &[hidden]));
        weights.extend(Projection::ALL.map(|p| bf16(name(p.path()), &config.shape(p))));
    }
    weights.push(bf16("model.norm.weight".into(), &[hidden]));
    weights
}

/// Ones for a norm; else uniform with variance `gain^2 / columns`. Uniform and not normal: it needs no logarithm, whose
/// last bit differs between platforms.
fn values(rng: &mut StdRng, weight: &TensorLayout) -> Vec<bf16> {
    let [rows, columns] = *weight.shape else { return vec![bf16::ONE; weight.shape.iter().product()] };
    let bound = gain(&weight.name) * (3.0 / columns as f32).sqrt();
    let mut uniform = || ((rng.next_u32() >> 8) as f32 + 0.5) / (1 << 23) as f32 - 1.0;
    (0..rows * columns).map(|_| bf16::from_f32(bound * uniform())).collect()
}

/// With gains of 1 a random model sees little but the letters of a word, and two blocks of adapters hardly learn from that.
/// Sharper attention and a steeper MLP tell their order apart.
fn gain(name: &str) -> f32 {
    match name {
        n if n.contains("q_proj") || n.contains("k_proj") => 3.0,
        n if n.contains("mlp") => 2.0,
        _ => 1.0,
    }
}
