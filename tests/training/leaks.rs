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
                let now = || (gpu.memory().unwrap().held, held(), resident());
                take(0..100);
                let (device_before, host_before, resident_before) = now();
                take(100..100 + steps());
                let (device_after, host_after, resident_after) = now();
                println!(
                    "{method}, {} steps: {device_before} bytes on the device, then {device_after}; {host_before} of the host's, \
                     then {host_after}; {resident_before} resident, then {resident_after}",
                    steps()
                );
                assert_eq!(device_after, device_before, "{method}: device memory");
                assert_eq!(host_after, host_before, "{method}: host memory");
                assert!(!alone || resident_after < resident_before + DRIVER, "{method}: {resident_after} bytes resident");
            });
        }
    }
}
