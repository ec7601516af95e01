//! SIGINT and SIGTERM: the first asks for a checkpoint and the end, the second ends the program at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The name and number of a signal.
const SIGNALS: [(&str, i32); 2] = [("SIGINT", SIGINT), ("SIGTERM", SIGTERM)];

/// Listens while it lives. Before and after, there is nothing to save, and a signal ends the program as it always does.
pub struct Signals {
    /// Whether the next signal ends the program.
    at_once: Arc<AtomicBool>,
    /// The first that came, or 0.
    came: Arc<AtomicUsize>,
}

/// A run that was ended by a signal, after what could be saved was.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {name}; {stands}")]
pub struct Interrupted {
    name: &'static str,
    number: i32,
    stands: String,
}

impl Interrupted {
    /// What shells say of a program that a signal ended.
    pub fn exit_code(&self) -> u8 {
        128 + self.number as u8
    }
}

impl Signals {
    /// From here on a first signal is only noted.
    pub fn listen() -> io::Result<Signals> {
        let signals = Signals { at_once: Arc::new(AtomicBool::new(false)), came: Arc::default() };
        for (_, number) in SIGNALS {
            // Actions run in the order they are registered in: the second signal finds what the first has set.
            flag::register_conditional_default(number, signals.at_once.clone())?;
            flag::register_usize(number, signals.came.clone(), number as usize)?;
            flag::register(number, signals.at_once.clone())?;
        }
        Ok(signals)
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed) != 0
    }

    /// Why the run ends, if a signal came, and what stands of it.
    pub fn interrupted(&self, stands: String) -> Option<Interrupted> {
        let came = self.came.load(Ordering::Relaxed) as i32;
        let (name, number) = SIGNALS.into_iter().find(|(_, number)| *number == came)?;
        Some(Interrupted { name, number, stands })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}
