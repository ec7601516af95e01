//! (to come)

pub mod builtin;
