//! What steps leave behind in memory: nothing. That they ask a GPU for none is in `gpu.rs`.

use super::gpu::trainer_with;
use crate::support::held;
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
