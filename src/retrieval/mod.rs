//! Embeddings in, judgements out: retrieval scores, word alignment, and how sure one can be of either.

pub mod bm25;
pub mod comparison;
pub mod embed;
mod embeddings;
pub mod maps;
pub mod pilot;
pub mod questions;
pub mod ranks;
pub mod rows;
pub mod scores;
pub mod statistics;
mod vectors;
pub mod views;
pub mod words;

pub use embeddings::{EmbeddingError, Embeddings, Means};
pub use vectors::VectorsError;
