//! Memory and streams, of this crate and of callers.

mod slices;
mod workspace;
