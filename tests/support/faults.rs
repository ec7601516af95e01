//! System calls that fail: `faults.cpp` as a library that a command is started with.

use crate::emulator::compiler;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A library that makes the program's system calls fail, in a folder of its own: packed with these tests, or compiled.
/// None, with a word about it, where there is neither that nor a compiler, or the kernel refuses what it asks for.
pub fn faults() -> Option<(TempDir, PathBuf)> {
    let (packed, source) = (super::path("support/libfaults.so"), super::path("support/faults.cpp"));
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libfaults.so");
    if packed.exists() {
        fs::copy(packed, &library).unwrap();
    } else {
        let flags = ["-shared", "-fPIC", "-O1", "-std=c++17"];
        let compiled = Command::new(compiler()).args(flags).arg("-o").arg(&library).arg(source).status();
        if !compiled.is_ok_and(|status| status.success()) {
            println!("skipped: no C++ compiler");
            return None;
        }
    }
    if !Command::new("true").env("LD_PRELOAD", &library).status().is_ok_and(|status| status.success()) {
        println!("skipped: the kernel takes no filter of system calls");
        return None;
    }
    Some((folder, library))
}

/// Files and folders in the making, below a folder.
pub fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".tmp") {
            found.push(entry.path());
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(temporaries(&entry.path()));
        }
    }
    found
}
