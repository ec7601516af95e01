//! Whole training steps on CUDA kernels (the emulator's, and a GPU's where there is one) against the CPU.

use super::words::{group, setup_with};
use crate::support::{
    Calls, Counting, Golden, assert_close, executors, fast_gpus, gpus, is_emulator, path, relative_error, smollm2,
    under_sanitizer,
};
use kiungo::device::{DType, Device, Gpu};
use kiungo::formats::pairs;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::{Bos, Tokenizer};
use kiungo::formats::weights::{Options, load};
use kiungo::llama::Layer;
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::llama::random;
use kiungo::ops::adamw::Precision;
use kiungo::ops::linear::Weight;
use kiungo::training::batch::{Group, Translations};
use kiungo::training::plan::Plan;
use kiungo::training::run::{Event, Go, RunError, run};
use kiungo::training::settings::{Dequantize, Keep, Master, Method, Preset, Settings, When};
use kiungo::training::step::{Trainer, UNDER_WAY};
use std::collections::BTreeMap;

/// The tiny golden model and its pairs, with dropout and a clip.
fn trainer(device: &Device, compute: DType, method: Method) -> (Trainer, Group) {
    let (trainer, group, _) = trainer_with(device, compute, method, |_| {});
    (trainer, group)
}

/// The same with other settings.
pub fn trainer_with(
    device: &Device,
    compute: DType,
    method: Method,
    change: impl Fn(&mut Settings),
) -> (Trainer, Group, Settings) {
    let golden = Golden::open("words.safetensors");
    let (settings, plan, model) = setup_with(device, compute, method, |settings| {
        (settings.dropout, settings.clip) = (0.1, Some(1.0));
        change(settings);
    });
    let group = group(&golden);
    let translations = Translations::new(&group.pairs);
    (Trainer::new(model, &settings, &plan, &group, translations).unwrap(), group, settings)
}

fn learned(trainer: &mut Trainer) -> Vec<f32> {
    let parameters = trainer.learner.parameters(&mut trainer.model);
    parameters.iter().flat_map(|p| p.master.to_vec::<f32>().unwrap()).collect()
}

/// A number of steps, or of repeats: the emulator takes seconds for one.
fn few_on_the_emulator(device: &Device, few: u32, many: u32) -> u32 {
    if is_emulator(device) { few } else { many }
}

/// Losses of some steps, and all that learned, after them.
fn train(device: &Device, compute: DType, method: Method, steps: u32) -> (Vec<f32>, Vec<f32>) {
    let (mut trainer, group) = trainer(device, compute, method);
    let losses = (0..steps).map(|step| trainer.step(&group, &[0, 1, 2, 3], step, 1e-3).unwrap().loss).collect();
    (losses, learned(&mut trainer))
}

#[test]
fn a_step_on_cuda_kernels_agrees_with_the_cpu() {
    for device in gpus() {
        let steps = if under_sanitizer() { 1 } else { few_on_the_emulator(&device, 2, 3) };
        for method in [Method::Lora, Method::Full] {
            let (cpu_losses, cpu) = train(&Device::Cpu, DType::F32, method, steps);
            let (losses, learned) = train(&device, DType::F32, method, steps);
            assert_close(&format!("{method} losses on {device}"), &losses, &cpu_losses, 1e-5);
            assert_close(&format!("{method} parameters on {device}"), &learned, &cpu, 1e-4);
            // The same rounding points: bf16 on the GPU is as far from f32 as bf16 on the CPU is.
            let (cpu_rounded, _) = train(&Device::Cpu, DType::Bf16, method, steps);
            let (rounded, _) = train(&device, DType::Bf16, method, steps);
            assert_close(&format!("{method} bf16 losses on {device}"), &rounded, &cpu_rounded, 5e-3);
        }
    }
}

/// 4-bit weights that are dequantised once have the values of those that are at each step.
#[test]
fn dequantising_once_changes_nothing() {
    for device in gpus() {
        let losses = |dequantize: Dequantize| -> Vec<f32> {
            let (mut trainer, group, _) = trainer_with(&device, DType::F32, Method::Lora, |settings| {
                (settings.base, settings.dequantize) = (Base::Nf4, dequantize);
            });
            let dense = |w: &Weight| matches!(w, Weight::Dense(_));
            let expanded = trainer.model.blocks.iter().all(|b| b.linear.iter().all(|(_, w)| dense(w)));
            assert_eq!(expanded, dequantize == Dequantize::Once, "{device}");
            (0..3).map(|step| trainer.step(&group, &[0, 1, 2, 3], step, 1e-2).unwrap().loss).collect()
        };
        let (once, each) = (losses(Dequantize::Once), losses(Dequantize::EachStep));
        assert_close(&format!("losses on {device}"), &once, &each, 1e-5);
    }
}

/// A batch that is computed in parts, with dropout, on the kernels.
#[test]
fn a_batch_in_parts_agrees_with_the_cpu() {
    let losses = |device: &Device, chunk: Option<usize>| -> Vec<f32> {
        let change = |settings: &mut Settings| settings.chunk = chunk;
        let (mut trainer, group, _) = trainer_with(device, DType::F32, Method::Lora, change);
        let reports = (0..3).map(|step| trainer.step(&group, &[0, 1, 2, 3], step, 1e-2).unwrap());
        reports.flat_map(|report| [report.loss, report.gradient_norm]).collect()
    };
    let expected = losses(&Device::Cpu, None);
    for device in gpus() {
        assert_close(&format!("losses and norms on {device}"), &losses(&device, Some(1)), &expected, 1e-4);
    }
}

/// bf16 weights without a copy, 8-bit moments, no gradients of linear layers and no activations kept: the losses of the CPU, and
/// no memory asked for in a step.
#[test]
fn full_training_in_few_bytes_agrees_with_the_cpu() {
    let few = |clip: Option<f32>| {
        move |settings: &mut Settings| {
            (settings.base, settings.target, settings.clip) = (Base::Bf16, Layer::Final, clip);
            (settings.moments, settings.master) = (Precision::Blocks8, Master::None);
            (settings.update, settings.keep) = (When::AtOnce, Keep::States);
        }
    };
    let losses = |device: &Device, clip: Option<f32>, steps: u32| -> Vec<f32> {
        let (mut trainer, group, _) = trainer_with(device, DType::Bf16, Method::Full, few(clip));
        let losses = (0..steps).map(|step| trainer.step(&group, &[0, 1, 2, 3], step, 1e-2).unwrap());
        losses.flat_map(|report| [report.loss, report.gradient_norm]).collect()
    };
    for device in gpus() {
        let steps = few_on_the_emulator(&device, 2, 4);
        for clip in [None, Some(0.5)] {
            let (expected, found) = (losses(&Device::Cpu, clip, steps), losses(&device, clip, steps));
            assert_close(&format!("losses and norms on {device}, clip {clip:?}"), &found, &expected, 2e-2);
        }
    }
}

/// Trained again and again from the start: the same bytes. 50 times on a GPU.
#[test]
fn a_seed_gives_the_same_bytes_every_time() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        let (repeats, steps) = match under_sanitizer() {
            true => (2, 1),
            false if is_emulator(&device) => (2, 2),
            false if device.is_cpu() => (3, 2),
            false => (50, 5),
        };
        for method in [Method::Lora, Method::Full] {
            let bits = || {
                let (losses, learned) = train(&device, DType::Bf16, method, steps);
                [losses, learned].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let first = bits();
            for repeat in 1..repeats {
                let differ = bits().iter().zip(&first).filter(|(a, b)| a != b).count();
                assert_eq!(differ, 0, "{method} on {device}, run {repeat}: so many of {} values differ", first.len());
            }
        }
    }
}

/// After the first step of each kind the host asks for no memory and waits for nothing, whatever the batch.
#[test]
fn a_step_neither_allocates_nor_waits() {
    for executor in executors() {
        let (gpu, calls) = Counting::gpu(executor);
        let device = Device::Cuda(gpu);
        let steps = if under_sanitizer() { 4 } else { few_on_the_emulator(&device, 5, 10) };
        for method in [Method::Lora, Method::Full] {
            let (mut trainer, group) = trainer(&device, DType::Bf16, method);
            let mut losses = vec![];
            for step in 0..steps {
                if step == 2 {
                    calls.take();
                }
                let pairs = [&[2, 0][..], &[3, 1], &[0, 1, 2, 3], &[3, 1, 0]][step as usize % 4];
                trainer.launch(&group, pairs, step, 1e-3).unwrap();
                losses.extend(trainer.report_or_room().unwrap().map(|report| report.loss));
            }
            let what = format!("{method} on {device}");
            let called = calls.take();
            let allowed = ["copy", "fill", "launch", "record", "upload_pinned", "finished"];
            let others: BTreeMap<_, _> = called.iter().filter(|(name, _)| !allowed.contains(name)).collect();
            assert!(others.is_empty(), "{what}: steps from the third on called {others:?}");
            // All that a step stages goes in one copy.
            let uploads = called["upload_pinned"];
            assert!(called["launch"] > 8 && uploads == steps as usize - 2, "{what}: {called:?}");
            while let Some(report) = trainer.wait().unwrap() {
                losses.push(report.loss);
            }
            assert!(losses.len() == steps as usize && losses.iter().all(|loss| loss.is_finite()), "{what}: {losses:?}");
        }
    }
}

/// The third step of a shape on is a replay of the second one's launches, and does what they would do.
#[test]
fn a_step_that_is_replayed_gives_the_same_bytes() {
    if under_sanitizer() {
        return println!("skipped: under a tool nothing is recorded");
    }
    let steps = 6;
    for method in [Method::Lora, Method::Full] {
        for (executor, plain) in executors().into_iter().zip(executors()) {
            if executor.name() == "emulator" && method == Method::Full {
                continue; // It records what it is told, as with adapters, and takes a minute.
            }
            let train = |(gpu, calls): (Gpu, Calls)| {
                let (mut trainer, group) = trainer(&Device::Cuda(gpu), DType::Bf16, method);
                let mut losses = vec![];
                calls.take();
                for step in 0..steps {
                    let pairs = [&[0, 1, 2, 3][..], &[2, 0]][step as usize % 2];
                    losses.push(trainer.step(&group, pairs, step, 1e-3).unwrap().loss.to_bits());
                }
                let learned: Vec<u32> = learned(&mut trainer).into_iter().map(f32::to_bits).collect();
                (losses, learned, calls.take())
            };
            let (losses, replayed, calls) = train(Counting::gpu(executor));
            let (expected_losses, expected, all_calls) = train(Counting::without_recording(plain));
            assert_eq!(losses, expected_losses, "{method}");
            assert!(replayed == expected, "{method}: other parameters");
            assert_eq!(calls["record"], 2, "{method}: one recording for each shape");
            // Four of the steps: two shapes as they are, and while they are recorded.
            assert_eq!(calls["launch"] * steps as usize, all_calls["launch"] * 4, "{method}");
        }
    }
}

/// Steps that are launched ahead do what steps taken one by one do, and there is a limit to them.
#[test]
fn steps_under_way_at_once_give_the_same_bytes() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        let (losses, expected) = train(&device, DType::F32, Method::Lora, UNDER_WAY as u32);
        let (mut trainer, group) = trainer(&device, DType::F32, Method::Lora);
        for step in 0..UNDER_WAY as u32 {
            trainer.launch(&group, &[0, 1, 2, 3], step, 1e-3).unwrap();
        }
        let error = trainer.launch(&group, &[0], 9, 1e-3).unwrap_err().to_string();
        assert_eq!(error, "step: 4 steps are under way: take a report before the next one");
        let reports: Vec<f32> = std::iter::from_fn(|| trainer.wait().unwrap()).map(|report| report.loss).collect();
        assert_eq!(reports, losses, "{device}");
        assert!(learned(&mut trainer) == expected, "{device}: other parameters");
    }
}

/// A loss that is not finite ends the run, which names the step and its pairs; it and the steps that were under way behind
/// it change nothing.
#[test]
fn a_loss_that_is_not_finite_ends_a_run_and_changes_nothing() {
    let bits = |trainer: &mut Trainer| learned(trainer).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        for method in [Method::Lora, Method::Full] {
            let prepared = || {
                let (mut trainer, group, settings) = trainer_with(&device, DType::F32, method, |settings| {
                    (settings.shuffle, settings.batch, settings.warmup) = (false, 1, 0);
                });
                // A token of the second pair that the first has not, so that step 2 fails.
                let first = [&group.sources[0][..], &group.targets[0]].concat();
                let token = *group.sources[1].iter().find(|token| !first.contains(token)).unwrap() as usize;
                let mut table = trainer.model.embedding.to_vec::<f32>().unwrap();
                let hidden = trainer.model.embedding.columns();
                table[token * hidden..(token + 1) * hidden].fill(f32::NAN);
                trainer.model.embedding.write(&table).unwrap();
                (trainer, group, settings)
            };
            let (mut trainer, group, settings) = prepared();
            trainer.step(&group, &[0], 0, settings.learning_rate).unwrap();
            let after_one = bits(&mut trainer);

            let (mut trainer, group, settings) = prepared();
            let mut steps = 0;
            let ended = run(&mut trainer, &group, None, &settings, |event| {
                steps += usize::from(matches!(event, Event::Step(_)));
                Ok(Go::On)
            });
            let what = format!("{method} on {device}");
            let Err(RunError::NotFinite { step, loss, pairs, .. }) = ended else { panic!("{what}: went on") };
            assert_eq!((step, steps, pairs.as_str()), (2, 1, "source 1 = target 1"), "{what}");
            assert!(loss.is_nan(), "{what}: {loss}");
            while trainer.wait().unwrap().is_some() {}
            assert!(bits(&mut trainer) == after_one, "{what}: parameters changed after the first step");
        }
    }
}

/// One step on 16 Romanian words: its loss, and the gradient of each parameter.
fn smollm2_gradients(device: &Device, compute: DType, method: Method, target: Layer) -> (f32, Vec<(String, Vec<f32>)>) {
    let folder = smollm2().unwrap();
    let config = Config::open(&folder).unwrap();
    let mut settings = Settings::preset(Preset::Clean, method, &config);
    (settings.base, settings.target, settings.batch) = (Base::F32, target, 16);
    let plan = Plan::new(&settings, &config, &[]).unwrap();
    let options = Options { parts: plan.parts, base: settings.base, compute, device, positions: 64 };
    let model = load(&Checkpoint::open(&folder).unwrap(), &config, options, |_| {}).unwrap();
    let tokenizer = Tokenizer::open(&folder, &config).unwrap();
    let pairs: Vec<_> = pairs::read(&path("data/wold/romanian.train.tsv"), None).unwrap().pairs;
    let pairs: Vec<_> = pairs.into_iter().take(16).collect();
    let encode = |text: &String| tokenizer.encode(text, Bos::Add, 64).unwrap().ids;
    let sources = pairs.iter().map(|p| encode(&p.source)).collect();
    let targets = pairs.iter().map(|p| encode(&p.target)).collect();
    let group = Group { pairs, sources, targets };
    let translations = Translations::new(&group.pairs);
    let mut trainer = Trainer::new(model, &settings, &plan, &group, translations).unwrap();
    let all: Vec<usize> = (0..16).collect();
    if method == Method::Lora {
        // B is zero at the start, and A has no gradient then.
        trainer.step(&group, &all, 0, 1e-3).unwrap();
    }
    let loss = trainer.gradients(&group, &all, 1).unwrap();
    let parameters = trainer.learner.parameters(&mut trainer.model);
    (loss, parameters.iter().map(|p| (p.name.clone(), p.gradient.as_ref().unwrap().to_vec::<f32>().unwrap())).collect())
}

/// One step of a block of Llama 3 8B's shape, under a small table: its loss, and the gradient of each parameter.
fn large_block_gradients(device: &Device, compute: DType) -> (f32, Vec<(String, Vec<f32>)>) {
    let mut config = Config::named("llama-3-8b").unwrap();
    (config.layers, config.vocab_size) = (1, 64);
    let mut settings = Settings::preset(Preset::Clean, Method::Full, &config);
    (settings.base, settings.target, settings.batch) = (Base::Bf16, Layer::Final, 2);
    (settings.master, settings.moments) = (Master::None, Precision::Blocks8);
    let plan = Plan::new(&settings, &config, &[]).unwrap();
    let options = Options { parts: plan.parts, base: settings.base, compute, device, positions: 16 };
    let model = random::model(&config, options, 3).unwrap();
    let pair = |i: u32| pairs::Pair { source: format!("source {i}"), target: format!("target {i}") };
    let text = |first: u32, tokens: u32| (first..first + tokens).collect::<Vec<u32>>();
    let group = Group {
        pairs: vec![pair(0), pair(1)],
        sources: vec![text(0, 5), text(10, 3)],
        targets: vec![text(20, 7), text(30, 1)],
    };
    let translations = Translations::new(&group.pairs);
    let mut trainer = Trainer::new(model, &settings, &plan, &group, translations).unwrap();
    let loss = trainer.gradients(&group, &[0, 1], 0).unwrap();
    let parameters = trainer.learner.parameters(&mut trainer.model);
    (loss, parameters.iter().map(|p| (p.name.clone(), p.gradient.as_ref().unwrap().to_vec::<f32>().unwrap())).collect())
}

/// Each parameter's gradient, in bf16, is at most twice as far from f32 as the CPU's bf16 is.
#[test]
fn a_block_of_eight_billion_parameters_agrees_with_the_cpu() {
    for device in fast_gpus() {
        let (exact_loss, exact) = large_block_gradients(&Device::Cpu, DType::F32);
        let (cpu_loss, cpu) = large_block_gradients(&Device::Cpu, DType::Bf16);
        let (loss, found) = large_block_gradients(&device, DType::Bf16);
        let near = 2.0 * (cpu_loss - exact_loss).abs() + exact_loss.abs() / 256.0;
        assert!((loss - exact_loss).abs() <= near, "loss {loss}, {cpu_loss} on the CPU, f32 {exact_loss}");
        for (((name, exact), (_, cpu)), (_, found)) in exact.iter().zip(&cpu).zip(&found) {
            let (error, allowed) = (relative_error(found, exact), relative_error(cpu, exact));
            println!("{name} on {device}: error {error:.2e}, the CPU's {allowed:.2e}");
            assert!(
                error <= 2.0 * allowed + 1e-3,
                "{name} on {device}: off by {error:.2e}, the CPU's by {allowed:.2e}"
            );
        }
    }
}

/// A GPU's bf16 may be twice as far from f32 as the CPU's bf16 is; its f32 rounds as seldom as the CPU's.
#[test]
fn a_step_on_smollm2_agrees_with_the_cpu() {
    if smollm2().is_none() {
        return;
    }
    for device in fast_gpus() {
        for (method, target) in
            [(Method::Lora, Layer::Hidden(2)), (Method::Full, Layer::Hidden(2)), (Method::Full, Layer::Final)]
        {
            let what = format!("{method} at {target} on {device}");
            let run = |device: &Device, compute| smollm2_gradients(device, compute, method, target);
            let all = |g: &[(String, Vec<f32>)]| g.iter().flat_map(|(_, g)| g.iter().copied()).collect::<Vec<f32>>();
            let (exact_loss, exact) = run(&Device::Cpu, DType::F32);
            let (cpu_loss, cpu) = run(&Device::Cpu, DType::Bf16);
            let (loss, found) = run(&device, DType::F32);
            let difference = relative_error(&all(&found), &all(&exact));
            println!("{what}: f32 loss {loss} and {exact_loss} on the CPU; gradients differ by {difference:.2e}");
            assert!((loss - exact_loss).abs() <= 1e-3 * exact_loss.abs(), "{what}: loss {loss}, CPU {exact_loss}");
            assert!(difference <= 1e-2, "{what}: f32 gradients differ by {difference:.2e}");

            let (loss, found) = run(&device, DType::Bf16);
            let (error, allowed) =
                (relative_error(&all(&found), &all(&exact)), relative_error(&all(&cpu), &all(&exact)));
            println!("{what}: bf16 loss {loss} and {cpu_loss} on the CPU; error {error:.2e}, the CPU's {allowed:.2e}");
            let near = 2.0 * (cpu_loss - exact_loss).abs() + exact_loss.abs() / 256.0;
            assert!(
                (loss - exact_loss).abs() <= near,
                "{what}: bf16 loss {loss}, {cpu_loss} on the CPU, f32 {exact_loss}"
            );
            assert!(
                error <= 2.0 * allowed,
                "{what}: bf16 gradients are off by {error:.2e}, the CPU's by {allowed:.2e}"
            );
        }
    }
}
