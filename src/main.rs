#![forbid(unsafe_code)]

use clap::Parser;
use kiungo::formats::tokenizer;
use std::panic;
use std::process::ExitCode;

fn main() -> ExitCode {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // One that is caught becomes an error, and is said as such.
        if !tokenizer::catches_panics() {
            report(panic);
        }
    }));
    match kiungo::commands::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_words(&error));
            let interrupted = error.downcast_ref::<kiungo::commands::Interrupted>();
            interrupted.map_or(ExitCode::FAILURE, |signal| ExitCode::from(signal.exit_code()))
        }
    }
}

/// The error and its causes, each said once.
fn in_words(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |words, cause| match words.as_str() {
        "" => cause,
        words if words.contains(&cause) => words.to_string(),
        words => format!("{words}: {cause}"),
    })
}
