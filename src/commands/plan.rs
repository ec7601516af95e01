//! What a run reads and holds, said before it begins, and refused where there is no room for it.

use super::common;
use crate::device::{Device, Memory};
use crate::formats::safetensors::Checkpoint;
use crate::llama::Parts;
use crate::llama::plan::{During, Ledger, TooLarge, Way, is_read};
use crate::report::Table;

/// The tensors that a run reads.
pub fn reads(checkpoint: &Checkpoint, parts: Parts) -> String {
    let count = |read: &dyn Fn(&str) -> bool| {
        let chosen = checkpoint.tensors().filter(|(name, _)| read(name));
        chosen.fold((0, 0), |(tensors, bytes), (_, info)| (tensors + 1, bytes + info.bytes()))
    };
    let (all, all_bytes) = count(&|_| true);
    let (tensors, bytes) = count(&|name| is_read(parts, name));
    format!("reads {tensors} of {all} tensors, {} of {}", common::bytes(bytes), common::bytes(all_bytes))
}

/// The ledger as a table, with what is held at most.
pub fn table(ledger: &Ledger, device: &Device) -> String {
    let mut table = Table::new(["memory", "bytes", "held"]);
    for row in ledger.rows() {
        let when = match row.during {
            During::Loading => "while loading",
            During::Running => "while running",
            During::Always => "always",
        };
        table.row([row.what.clone(), row.bytes.to_string(), when.into()]);
    }
    let [loading, running] = ledger.sums();
    table.row(["sum".into(), loading.to_string(), "while loading".to_string()]);
    table.row(["sum".into(), running.to_string(), "while running".to_string()]);
    let peak = common::bytes(ledger.peak());
    match common::memory(device) {
        None => format!("{table}\nexpected peak: {peak}"),
        Some(Memory { free, total, held, .. }) => {
            let [free, total, others] = [free, total, total.saturating_sub(free + held)].map(common::bytes);
            format!(
                "{table}\nexpected peak: {peak}; {free} of {total} are free, {others} are held by other programs and the driver"
            )
        }
    }
}

/// An error where the device has no room; `ways` are other runs, the one that gives up least first.
pub fn fit(ledger: &Ledger, device: &Device, ways: impl FnOnce() -> Vec<Way>) -> Result<(), TooLarge> {
    common::memory(device).map_or(Ok(()), |memory| ledger.fit(memory, ways))
}

/// Says what was held at most, where the device counts, beside what was expected.
pub fn say_peak(ledger: &Ledger, device: &Device) {
    if let Some(Memory { peak, .. }) = common::memory(device) {
        let expected = common::bytes(ledger.peak());
        eprintln!("GPU memory: {} were held at most, {expected} were expected", common::bytes(peak));
    }
}
