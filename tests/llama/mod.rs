mod config;
mod golden;
mod lora;
mod pass;
mod plan;
pub mod smollm2;
