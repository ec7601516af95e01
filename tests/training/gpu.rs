//! Whole training steps on CUDA kernels (the emulator's, and a GPU's where there is one) against the CPU.

use super::words::{group, setup};
use crate::support::{Golden, assert_close, gpus};
use kiungo::device::{DType, Device};
use kiungo::training::batch::Translations;
use kiungo::training::learner::Learner;
use kiungo::training::settings::Method;
use kiungo::training::step::Trainer;

/// Losses of three steps and all that learned, after them.
fn train(device: &Device, compute: DType, method: Method) -> (Vec<f32>, Vec<f32>) {
    let golden = Golden::open("words.safetensors");
    let (mut settings, plan, model) = setup(device, compute, method);
    (settings.dropout, settings.clip) = (0.1, Some(1.0));
    let group = group(&golden);
    let learner = Learner::new(&plan, &settings, &model).unwrap();
    let translations = Translations::new(&group.pairs);
    let mut trainer = Trainer::with_learner(model, learner, &settings, &plan, &group, translations).unwrap();
    let losses = (0..3).map(|step| trainer.step(&group, &[0, 1, 2, 3], step, 1e-3).unwrap().loss).collect();
    let parameters = trainer.learner.parameters(&mut trainer.model);
    (losses, parameters.iter().flat_map(|p| p.master.to_vec::<f32>().unwrap()).collect())
}

#[test]
fn a_step_on_cuda_kernels_agrees_with_the_cpu() {
    for device in gpus() {
        for method in [Method::Lora, Method::Full] {
            let (cpu_losses, cpu) = train(&Device::Cpu, DType::F32, method);
            let (losses, learned) = train(&device, DType::F32, method);
            assert_close(&format!("{method} losses on {device}"), &losses, &cpu_losses, 1e-5);
            assert_close(&format!("{method} parameters on {device}"), &learned, &cpu, 1e-4);
            // The same rounding points: bf16 on the GPU is as far from f32 as bf16 on the CPU is.
            let (cpu_rounded, _) = train(&Device::Cpu, DType::Bf16, method);
            let (rounded, _) = train(&device, DType::Bf16, method);
            assert_close(&format!("{method} bf16 losses on {device}"), &rounded, &cpu_rounded, 5e-3);
        }
    }
}
