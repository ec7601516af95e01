mod builtin;
mod findings;
mod gpu;
mod memory;
mod peer_losses;
mod plan;
mod run;
mod words;
