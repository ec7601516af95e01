//! The Llama architecture: configuration, weights, adapters, and the forward and backward passes of a block.
//!
//! There is no tape. [`model::Block::forward`] and [`model::Block::backward`] are the equations, one op a line,
//! over buffers that a plan made beforehand.

pub mod activations;
pub mod adapters;
pub mod backward;
pub mod config;
pub mod encode;
pub mod forward;
mod layer;
pub mod model;
pub mod plan;
mod projections;
pub mod random;

pub use layer::Layer;
pub use model::Parts;
pub use projections::PerProjection;
