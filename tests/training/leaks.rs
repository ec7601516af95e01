//! What steps leave behind in memory: nothing. That they ask a GPU for none while they run is in `gpu.rs`.

use super::gpu::trainer_with;
use crate::support::{gpus, held, is_emulator, under_sanitizer};
use kiungo::device::{DType, Device};
use kiungo::training::settings::Method;
use rayon::ThreadPoolBuilder;

/// Steps that are taken: 500, or as many as `KIUNGO_STEPS` says.
fn steps() -> u32 {
    std::env::var("KIUNGO_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

#[test]
fn steps_leave_nothing_behind() {
    // All of it happens on one thread, whose balance is known.
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for method in [Method::Lora, Method::Full] {
        let grown = pool.install(|| {
            let (mut trainer, group, _) = trainer_with(&Device::Cpu, DType::F32, method, |_| {});
            let mut take = |steps: std::ops::Range<u32>| {
                for step in steps {
                    trainer.step(&group, &[0, 1, 2, 3], step, 1e-5).unwrap();
                }
            };
            // Buffers that are made once.
            take(0..10);
            let before = held();
            take(10..10 + steps());
            held() - before
        });
        assert_eq!(grown, 0, "{method}: bytes more after {} steps", steps());
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap() * 4096
}

/// What the driver may take meanwhile, of which no balance is kept: seen where `KIUNGO_STEPS` are taken beside no other test.
const DRIVER: usize = 16 << 20;

#[test]
fn steps_on_a_gpu_leave_nothing_behind() {
    let alone = std::env::var_os("KIUNGO_STEPS").is_some();
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for device in gpus().into_iter().filter(|device| !is_emulator(device) && !under_sanitizer()) {
        let Device::Cuda(gpu) = &device else { continue };
        for method in [Method::Lora, Method::Full] {
            pool.install(|| {
                let (mut trainer, group, _) = trainer_with(&device, DType::Bf16, method, |_| {});
                let mut take = |steps: std::ops::Range<u32>| {
                    for step in steps {
                        trainer.step(&group, &[0, 1, 2, 3], step, 1e-5).unwrap();
                    }
                };
                let now = || {
                    let memory = gpu.memory().unwrap();
                    ([memory.held, held() as usize], [memory.total - memory.free, resident()])
                };
                take(0..100);
                let (held_before, used_before) = now();
                take(100..100 + steps());
                let (held_after, used_after) = now();
                println!(
                    "{method}, {} steps: {held_before:?} bytes of ours on the device and the host, then {held_after:?}; \
                     {used_before:?} in use there and resident here, then {used_after:?}",
                    steps()
                );
                assert_eq!(held_after, held_before, "{method}");
                for (after, before) in used_after.into_iter().zip(used_before) {
                    assert!(!alone || after < before + DRIVER, "{method}: {after} bytes in use, {before} before");
                }
            });
        }
    }
}
