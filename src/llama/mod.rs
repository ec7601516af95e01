//! The model.

pub mod config;
