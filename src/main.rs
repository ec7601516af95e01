use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match kiungo::commands::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let interrupted = error.downcast_ref::<kiungo::commands::Interrupted>();
            interrupted.map_or(ExitCode::FAILURE, |signal| ExitCode::from(signal.exit_code()))
        }
    }
}
