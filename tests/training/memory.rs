//! A GPU that runs out of memory while a run is being prepared.

use super::words::{group, try_setup};
use crate::emulator::{self, Emulator};
use crate::support::{Counting, Golden};
use kiungo::device::{DType, Device};
use kiungo::training::batch::Translations;
use kiungo::training::settings::Method;
use kiungo::training::step::Trainer;

/// What `kiungo train` does before its first step, and what it would print where that fails.
fn prepare(device: &Device, method: Method) -> Result<Trainer, String> {
    let said = |error: anyhow::Error| format!("{error:#}");
    let (settings, plan, model) = try_setup(device, DType::Bf16, method, |_| {}).map_err(said)?;
    let group = group(&Golden::open("words.safetensors"));
    let translations = Translations::new(&group.pairs);
    Trainer::new(model, &settings, &plan, &group, translations).map_err(|error| said(error.into()))
}

/// Whichever allocation finds the memory full: one line says what was needed and what there was.
#[test]
fn out_of_memory_says_what_was_needed_and_what_there_was() {
    if emulator::unavailable().is_some() {
        return;
    }
    for method in [Method::Lora, Method::Full] {
        let mut room = 0;
        loop {
            let (gpu, _) = Counting::with_room(Box::new(Emulator::new()), room);
            let Err(said) = prepare(&Device::Cuda(gpu), method) else { break };
            let (start, rest) = said.split_once(" bytes asked for, ").unwrap_or_else(|| panic!("{room}: {said}"));
            let asked = start.rsplit(' ').next().unwrap();
            assert!(asked.parse::<usize>().is_ok_and(|bytes| bytes > 0), "{said}");
            assert!(start.contains("out of GPU memory: "), "{said}");
            let says = "12 of 3456 bytes free, 3000 held by this run and 444 by other programs and the driver. Use a \
                        smaller batch, fewer blocks, or --base nf4";
            assert_eq!(rest, says, "{said}");
            room += 1;
        }
        assert!(room > 50, "{method}: only {room} allocations");
    }
}
