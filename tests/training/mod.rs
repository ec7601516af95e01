mod builtin;
mod gpu;
mod peer_losses;
mod plan;
mod run;
mod words;
