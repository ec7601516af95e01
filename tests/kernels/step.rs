//! What a step finds out, and what AdamW makes of it.

use crate::support::{gpus, normal, rng};
use kiungo::device::{Device, Staging, Tensor};
use kiungo::ops::adamw::{self, AdamW};
use kiungo::ops::params::StepRecord;
use kiungo::ops::step::{LATCHED, Metrics, State, Status, judge};

/// Steps with these losses and sums of squares: their records, and a parameter after each.
fn steps(device: &Device, cases: &[(f32, &[f32])], max_norm: Option<f32>) -> Vec<(StepRecord, Vec<u32>)> {
    const N: usize = 77;
    let mut rng = rng(5);
    let [w, g] = [0; 2].map(|_| normal(&mut rng, N));
    let f32 = |x: &[f32]| Tensor::from_slice(device, x, &[x.len()]).unwrap();
    let (mut w, g, mut m, mut v) = (f32(&w), f32(&g), f32(&[0.0; N]), f32(&[0.0; N]));
    let (mut state, mut status) = (State::new(device).unwrap(), Status::new(device).unwrap());
    let mut staging = Staging::new(device, 2, State::BYTES).unwrap();
    let mut metrics = Metrics::new(device, 2).unwrap();
    let step = |(i, (loss, squares)): (usize, &(f32, &[f32]))| {
        let i = i as u32;
        staging.begin();
        state.set(&mut staging, i, i + 1, AdamW::default().coefficients(i + 1), max_norm).unwrap();
        judge(&f32(&[*loss]), &f32(squares), &state, &mut status, &mut metrics).unwrap();
        adamw::step_from(&state, &status, &mut w, &g, &mut m, &mut v, None).unwrap();
        assert!(metrics.read(i + 2).is_none());
        let record = metrics.wait(device, i + 1).unwrap();
        (record, w.to_vec::<f32>().unwrap().iter().map(|w| w.to_bits()).collect())
    };
    cases.iter().enumerate().map(step).collect()
}

fn devices() -> Vec<Device> {
    [Device::Cpu].into_iter().chain(gpus()).collect()
}

#[test]
fn norm_and_clip_are_those_of_the_definition() {
    let (three, four) = ([9.0], [4.0; 4]);
    let cases: [(f32, &[f32]); 3] = [(0.5, &three), (0.25, &four), (1.5, &[0.0])];
    let clipped = steps(&Device::Cpu, &cases, Some(2.0));
    let free = steps(&Device::Cpu, &cases, None);
    // The first step of Adam is the same for any factor of its gradient.
    assert!(clipped[1].1 != free[1].1, "a gradient of norm 4 is scaled down to 2");
    for device in devices() {
        let found = steps(&device, &cases, Some(2.0));
        for ((i, (record, _)), norm) in found.iter().enumerate().zip([3.0, 4.0, 0.0]) {
            assert_eq!((record.loss, record.gradient_norm), (cases[i].0, norm), "{device}");
            assert_eq!((record.stopped, record.serial), (0, i as u32 + 1), "{device}");
        }
        let weights = |steps: &[(StepRecord, Vec<u32>)]| steps.iter().map(|s| s.1.clone()).collect::<Vec<_>>();
        assert!(weights(&found) == weights(&clipped), "{device}: other weights than on the CPU");
        assert!(weights(&steps(&device, &cases, None)) == weights(&free), "{device}: other weights, without a clip");
    }
}

#[test]
fn the_first_step_that_is_not_finite_stops_all_later_ones() {
    for device in devices() {
        for bad in [(f32::NAN, 1.0), (1.0, f32::INFINITY), (1.0, f32::NAN)] {
            let squares = [bad.1];
            let found = steps(&device, &[(1.0, &[1.0]), (bad.0, &squares), (1.0, &[1.0]), (1.0, &[1.0])], Some(1.0));
            let stopped: Vec<u32> = found.iter().map(|(record, _)| record.stopped).collect();
            assert_eq!(stopped, [0, LATCHED, LATCHED, LATCHED], "{bad:?} on {device}");
            assert!(found[1..].iter().all(|(_, w)| *w == found[0].1), "{bad:?} on {device}: weights changed");
        }
    }
}

#[test]
fn a_record_that_does_not_come_is_an_error() {
    for device in devices() {
        let metrics = Metrics::new(&device, 4).unwrap();
        let error = metrics.wait(&device, 1).unwrap_err().to_string();
        assert_eq!(error, "step: launch 1 has left no record", "{device}");
    }
}
