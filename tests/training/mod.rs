mod builtin;
mod peer_losses;
mod plan;
mod run;
mod words;
