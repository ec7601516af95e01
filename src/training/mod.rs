//! Training on pairs: what a run needs ([`plan`]), one step of it ([`step`]), and the whole run ([`run`]).

pub mod aggregate;
pub mod arms;
pub mod batch;
pub mod builtin;
pub mod checkpoint;
pub mod evaluate;
pub mod findings;
mod graphs;
pub mod history;
pub mod learner;
pub mod merge;
pub mod objective;
pub mod optimizer;
pub mod outcome;
pub mod perplexity;
pub mod plan;
pub mod run;
pub mod save;
pub mod schedule;
pub mod settings;
pub mod step;
pub mod summary;
pub mod unmoved;
