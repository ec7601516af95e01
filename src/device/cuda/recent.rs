//! The last launches, to be named when a device says only later that one of them failed.

use crate::device::Launch;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Launches that are remembered.
pub const MOST: usize = 8;

/// Names and shapes of the last launches.
#[derive(Default)]
pub struct Recent(Mutex<VecDeque<Shape>>);

#[derive(Clone, Copy)]
struct Shape {
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "{} with grid {x}x{y}x{z} of {}", self.kernel, self.threads)
    }
}

/// A launch as errors name it: kernel, grid and threads a block.
pub fn in_words(launch: &Launch) -> String {
    shape(launch).to_string()
}

fn shape(launch: &Launch) -> Shape {
    Shape { kernel: launch.kernel, grid: launch.grid, threads: launch.block.iter().product() }
}

impl Recent {
    /// Remembers a launch.
    pub fn note(&self, launch: &Launch) {
        let mut last = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if last.len() == MOST {
            last.pop_front();
        }
        last.push_back(shape(launch));
    }

    /// What failed, as far as `call` can tell: a kernel fails while it runs, and later calls hear of it.
    pub fn suspects(&self, call: &str) -> String {
        let last = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if last.is_empty() {
            return call.into();
        }
        let names: Vec<String> = last.iter().rev().map(ToString::to_string).collect();
        format!(
            "{call}: a kernel failed, one of the last launched ({}); with CUDA_LAUNCH_BLOCKING=1 the error names it",
            names.join(", ")
        )
    }
}
