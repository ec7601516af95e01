use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match kiungo::commands::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
