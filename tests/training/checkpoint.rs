//! A trainer that is saved, and another that goes on from there: the bytes of one that never stopped.

use super::gpu::trainer_with;
use crate::support::{Counting, executors, gpus, is_emulator, under_sanitizer};
use kiungo::device::{DType, Device};
use kiungo::training::batch::Group;
use kiungo::training::checkpoint::{Checkpoints, Progress};
use kiungo::training::evaluate::Probe;
use kiungo::training::history::History;
use kiungo::training::run::{Event, Go, RunError, run, run_from};
use kiungo::training::settings::{Method, Settings, When};
use kiungo::training::step::Trainer;
use std::collections::{BTreeMap, BTreeSet};

/// Ten steps in five epochs, or four in two where steps are slow.
fn trainer(device: &Device, method: Method) -> (Trainer, Group, Settings) {
    let epochs = if is_emulator(device) || under_sanitizer() { 2 } else { 5 };
    trainer_with(device, DType::Bf16, method, |s| (s.batch, s.epochs, s.warmup) = (2, epochs, 1))
}

fn bytes(trainer: &mut Trainer) -> BTreeMap<String, Vec<u8>> {
    trainer.tensors().into_iter().map(|(name, tensor)| (name, tensor.to_bytes().unwrap())).collect()
}

fn progress(step: usize) -> Progress {
    Progress { step, skipped: 0, metrics_bytes: 0, seconds: 0.0, device: "here".into() }
}

#[test]
fn a_run_that_is_saved_and_resumed_ends_in_the_bytes_of_one_that_is_not() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        for method in [Method::Lora, Method::Full] {
            let what = format!("{method} on {device}");
            let (mut whole, group, settings) = trainer(&device, method);
            let mut losses = vec![];
            run(&mut whole, &group, None, &settings, |event| {
                losses.extend(if let Event::Step(step) = event { Some(step.loss) } else { None });
                Ok(Go::On)
            })
            .unwrap();

            let folder = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2);
            // At the end of an epoch, and in the middle of one where there are more.
            for half in BTreeSet::from([2, settings.epochs]) {
                let (mut first, ..) = trainer(&device, method);
                let mut history = History::default();
                run(&mut first, &group, None, &settings, |event| {
                    match event {
                        Event::Launched(step) if step == half => return Ok(Go::SaveAndStop),
                        Event::Step(step) => history.steps.push(step.clone()),
                        Event::Epoch(epoch) => history.epochs.push(epoch.clone()),
                        Event::Save(step, trainer) => drop(checkpoints.save(trainer, &progress(step), "").unwrap()),
                        _ => {}
                    }
                    Ok(Go::On)
                })
                .unwrap();
                assert_eq!(history.steps.len(), half, "{what}");
                drop(first);

                let (mut second, ..) = trainer(&device, method);
                checkpoints.newest().unwrap().newest.unwrap().restore(&mut second).unwrap();
                run_from(half, &history.clone(), &mut second, &group, None, &settings, |event| {
                    history.steps.extend(if let Event::Step(step) = event { Some(step.clone()) } else { None });
                    Ok(Go::On)
                })
                .unwrap();
                let found: Vec<f32> = history.steps.iter().map(|s| s.loss).collect();
                assert_eq!(found, losses, "{what}: losses");
                assert!(bytes(&mut second) == bytes(&mut whole), "{what}: other bytes after a break at {half}");
                assert_eq!(second.hash().unwrap(), whole.hash().unwrap(), "{what}");
            }
        }
    }
}

/// The state of another run is refused before anything is changed.
#[test]
fn the_state_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path().into(), 1);
    let (mut lora, ..) = trainer(&Device::Cpu, Method::Lora);
    checkpoints.save(&mut lora, &progress(1), "").unwrap();
    let whole = checkpoints.newest().unwrap().newest.unwrap();
    let (mut full, ..) = trainer(&Device::Cpu, Method::Full);
    let before = bytes(&mut full);
    let error = whole.restore(&mut full).unwrap_err().to_string();
    assert!(error.ends_with("; the checkpoint belongs to another run"), "{error}");
    let (mut wider, ..) = trainer_with(&Device::Cpu, DType::Bf16, Method::Lora, |s| s.rank = 5);
    let error = whole.restore(&mut wider).unwrap_err().to_string();
    let says =
        "weights.model.layers.0.self_attn.q_proj.lora_A.weight is F32 [4, 64]; the checkpoint belongs to another run";
    assert!(error.ends_with(says), "{error}");
    assert!(bytes(&mut full) == before);
}

/// The last ones are kept, and those of a future that did not come about are not.
#[test]
fn the_last_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path().into(), 2);
    let (mut trainer, ..) = trainer(&Device::Cpu, Method::Lora);
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for step in [1, 2, 10] {
        checkpoints.save(&mut trainer, &progress(step), "").unwrap();
    }
    assert_eq!(names(), ["step-00000002", "step-00000010"]);
    std::fs::write(folder.path().join("step-00000010/state.safetensors"), "damage").unwrap();
    let found = checkpoints.newest().unwrap();
    assert_eq!((found.newest.unwrap().progress.step, found.damaged.len()), (2, 1));
    checkpoints.save(&mut trainer, &progress(4), "").unwrap();
    assert_eq!(names(), ["step-00000002", "step-00000004"]);
}

/// Steps that may be left out change nothing, and the run goes on; one more ends it, with what is not finite named.
#[test]
fn steps_that_are_not_finite_are_left_out_up_to_a_number() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        for method in [Method::Lora, Method::Full] {
            let what = format!("{method} on {device}");
            let prepared = |skips: u32| {
                let (mut trainer, group, settings) = trainer_with(&device, DType::F32, method, |s| {
                    (s.shuffle, s.batch, s.warmup, s.epochs) = (false, 1, 0, 1);
                });
                poison(&mut trainer, &group, 1);
                trainer.skip(skips, 0).unwrap();
                (trainer, group, settings)
            };
            // Steps 1, 3 and 4 alone, as if there had been no second.
            let (mut expected, group, settings) = prepared(1);
            for step in [0, 2, 3] {
                let rate = rate(&settings, step);
                expected.step(&group, &[step], step as u32, rate).unwrap();
            }
            let (mut found, ..) = prepared(1);
            let (mut steps, mut skipped) = (vec![], vec![]);
            run(&mut found, &group, None, &settings, |event| {
                match event {
                    Event::Step(step) => steps.push(step.step),
                    Event::Skipped(step) => skipped.push((step.skipped, step.pairs.clone())),
                    _ => {}
                }
                Ok(Go::On)
            })
            .unwrap();
            assert_eq!((steps, skipped), (vec![1, 3, 4], vec![(2, "source 1 = target 1".into())]), "{what}");
            assert!(bytes(&mut found) == bytes(&mut expected), "{what}: a step that was left out changed something");

            let (mut stopped, ..) = prepared(0);
            let mut rescued = vec![];
            let ended = run(&mut stopped, &group, None, &settings, |event| {
                rescued.extend(if let Event::Rescue(step, _) = event { Some(step) } else { None });
                Ok(Go::On)
            });
            let Err(RunError::NotFinite { step: 2, tensor, .. }) = ended else { panic!("{what}: {ended:?}") };
            assert_eq!((tensor.as_str(), rescued), ("hidden(0)", vec![1]), "{what}");
        }
    }
}

/// A gradient that is not finite, of a loss that is, leaves all as it was where weights learn together, or wait for the norm.
/// Where each learns at once some have by then: what is not finite has reached none, and it is said that they are not whole.
#[test]
fn a_gradient_that_is_not_finite_reaches_no_weight() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        for (update, clip) in [(When::Together, None), (When::AtOnce, Some(1.0)), (When::AtOnce, None)] {
            let what = format!("{update}, clip {clip:?} on {device}");
            let (mut trainer, group, settings) = trainer_with(&device, DType::F32, Method::Full, |s| {
                // Cosines are divided by next to nothing: the loss is large, and its gradient larger.
                (s.temperature, s.update, s.clip, s.warmup, s.epochs) = (1e-36, update, clip, 0, 1);
            });
            let before = bytes(&mut trainer);
            let ended = run(&mut trainer, &group, None, &settings, |_| Ok(Go::On));
            let Err(RunError::NotFinite { step: 1, loss, gradient_norm, weights, .. }) = ended else {
                panic!("{what}: {ended:?}")
            };
            assert!(loss.is_finite() && !gradient_norm.is_finite(), "{what}: {loss}, {gradient_norm}");
            let after = bytes(&mut trainer);
            if update == When::AtOnce && clip.is_none() {
                assert_eq!((weights, trainer.is_whole()), ("hold a part of the step", false), "{what}");
                assert!(after != before, "{what}: nothing has changed");
            } else {
                assert_eq!((weights, trainer.is_whole()), ("are those before the step", true), "{what}");
                assert!(after == before, "{what}: something has changed");
            }
            let is_finite = |p: &kiungo::training::optimizer::Parameter| {
                p.master.to_vec::<f32>().unwrap().iter().all(|x| x.is_finite())
            };
            assert!(trainer.learner.parameters(&mut trainer.model).iter().all(is_finite), "{what}");
        }
    }
}

fn rate(settings: &Settings, step: usize) -> f64 {
    settings.learning_rate * (1.0 - step as f64 / 4.0)
}

/// Makes a token NaN that a pair has and the first one has not.
fn poison(trainer: &mut Trainer, group: &Group, pair: usize) {
    let others: Vec<u32> = (0..group.len())
        .filter(|&i| i != pair)
        .flat_map(|i| group.sources[i].iter().chain(&group.targets[i]).copied())
        .collect();
    let own = group.sources[pair].iter().chain(&group.targets[pair]);
    let token = *own.into_iter().find(|token| !others.contains(token)).unwrap() as usize;
    let mut table = trainer.model.embedding.to_vec::<f32>().unwrap();
    let hidden = trainer.model.embedding.columns();
    table[token * hidden..(token + 1) * hidden].fill(f32::NAN);
    trainer.model.embedding.write(&table).unwrap();
}

/// Memory that runs out in a step ends the run with what was asked for, and the steps before are saved.
#[test]
fn memory_that_runs_out_in_a_step_leaves_the_steps_before() {
    for executor in executors() {
        let (gpu, calls) = Counting::gpu(executor);
        let device = Device::Cuda(gpu.clone());
        let (mut trainer, group, settings) = trainer(&device, Method::Lora);
        let mut rescued = vec![];
        let ended = run(&mut trainer, &group, None, &settings, |event| {
            match event {
                Event::Launched(2) => calls.fail_launches(),
                Event::Rescue(step, trainer) => {
                    rescued.push(step);
                    assert!(trainer.is_whole());
                }
                _ => {}
            }
            Ok(Go::On)
        });
        let error = ended.unwrap_err().to_string();
        let says = "out of GPU memory: 1 bytes asked for, 12 of 3456 bytes free, 3000 held by this run and 444 by other \
                    programs and the driver. Use a smaller batch, fewer blocks, or --base nf4";
        assert!(error.contains(says), "{error}");
        assert_eq!(rescued, [2], "{device}");
    }
}

/// The same where it runs out between two epochs, when the development pairs are looked at: what follows is as if it had not.
#[test]
fn memory_that_runs_out_between_epochs_leaves_the_epoch() {
    for ((stopped, resumed), whole) in executors().into_iter().zip(executors()).zip(executors()) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().into(), 1);
        let prepared = |executor| {
            let (gpu, calls) = Counting::gpu(executor);
            (trainer(&Device::Cuda(gpu), Method::Lora), calls)
        };
        let keep = |history: &mut History, event: &Event| match event {
            Event::Step(step) => history.steps.push((*step).clone()),
            Event::Epoch(epoch) => history.epochs.push((*epoch).clone()),
            _ => {}
        };

        let ((mut trainer, group, settings), calls) = prepared(stopped);
        let dev = Probe::new(&group, &group.pairs, settings.pooling).unwrap();
        let mut history = History::default();
        let ended = run(&mut trainer, &group, Some(&dev), &settings, |event| {
            keep(&mut history, &event);
            match event {
                Event::Step(step) if step.step == 2 => calls.fail_launches(),
                Event::Rescue(step, trainer) => drop(checkpoints.save(trainer, &progress(step), "").unwrap()),
                _ => {}
            }
            Ok(Go::On)
        });
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("out of GPU memory: 1 bytes asked for, "), "{error}");

        let ((mut trainer, ..), _) = prepared(resumed);
        let saved = checkpoints.newest().unwrap().newest.expect("the epoch is saved");
        assert_eq!((saved.progress.step, history.epochs.len()), (2, 1));
        saved.restore(&mut trainer).unwrap();
        run_from(2, &history.clone(), &mut trainer, &group, Some(&dev), &settings, |event| {
            keep(&mut history, &event);
            Ok(Go::On)
        })
        .unwrap();

        let ((mut expected, ..), _) = prepared(whole);
        let mut expected_history = History::default();
        run(&mut expected, &group, Some(&dev), &settings, |event| {
            keep(&mut expected_history, &event);
            Ok(Go::On)
        })
        .unwrap();
        assert_eq!(history.epochs, expected_history.epochs);
        assert!(bytes(&mut trainer) == bytes(&mut expected), "other bytes");
    }
}
