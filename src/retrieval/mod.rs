//! Embeddings in, judgements out: retrieval scores, word alignment, and how sure one can be of either.

pub mod embed;
mod embeddings;
pub mod questions;
pub mod scores;
pub mod statistics;
pub mod words;

pub use embeddings::{EmbeddingError, Embeddings};
