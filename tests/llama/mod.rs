mod config;
mod golden;
mod lora;
mod pass;
pub mod smollm2;
