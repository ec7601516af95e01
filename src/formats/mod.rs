//! Files, read and written: checkpoints, adapters, tokenizers, word pairs, questions.
//!
//! Input is not trusted: every reader returns an error that names the file and the place, and none panics.
//! Output is whole or absent: files are written under a temporary name and renamed.

pub mod collection;
pub mod hub;
pub mod kiungo_json;
pub mod nf4;
pub mod output;
pub mod pairs;
pub mod peft;
pub mod random;
pub mod safetensors;
pub mod squad;
pub mod text;
pub mod tokenizer;
pub mod weights;
