//! Which stages of AdamW's pass that makes x's gradient are whose, on Hopper cards that are not here: what the launches say, walked
//! through by the kernels' own code in the emulator.

use crate::emulator::{Emulator, unavailable};
use crate::support::Paper;
use kiungo::device::{DType, Device, Gpu, Launch, Tensor};
use kiungo::ops::adamw::{self, LinearLayer, Moments, Precision, Rounding};
use kiungo::ops::params::{AdamwLinearShares, AdamwLinearSm90Params, AdamwLinearSumParams};
use kiungo::ops::step::{State, Status};

/// The shares, and how many blocks there are, of layers `[outputs, inputs]` of one x on a card; None where other kernels take them.
fn shares(multiprocessors: u32, inputs: usize, outputs: &[usize]) -> Option<(AdamwLinearShares, u32)> {
    let card = Paper::new(90, multiprocessors);
    let device = Device::Cuda(Gpu::new(card.clone()));
    let tensor = |dtype, shape: &[usize]| Tensor::zeros(&device, dtype, shape).unwrap();
    let (state, status) = (State::new(&device).unwrap(), Status::new(&device).unwrap());
    let squares = outputs.iter().map(|n| adamw::update_linear_squares(n * inputs)).max().unwrap();
    let mut squares = tensor(DType::F32, &[squares]);
    let (x, mut dx) = (tensor(DType::Bf16, &[64, inputs]), tensor(DType::Bf16, &[64, inputs]));
    let mut weights: Vec<_> = outputs.iter().map(|&n| tensor(DType::Bf16, &[n, inputs])).collect();
    let dy: Vec<_> = outputs.iter().map(|&n| tensor(DType::Bf16, &[64, n])).collect();
    let moments = |&n: &usize| Moments::new(&device, Precision::Blocks8, &[n, inputs]).unwrap();
    let mut moments: Vec<_> = outputs.iter().map(moments).collect();
    let rounding = Rounding { seed: 1, stream: 0 };
    let each = weights.iter_mut().zip(&mut moments).zip(&dy);
    let mut layers: Vec<_> =
        each.map(|((w, moments), dy)| LinearLayer { dy, w, moments, copy: None, rounding }).collect();
    card.take();
    adamw::update_linears(&state, &status, &mut layers, &x, Some(&mut dx), &mut squares).unwrap();
    let launches = card.take();
    let launch = launches.iter().find(|launch| launch.kernel == "adamw_linear_bf16_sm90")?;
    let params: AdamwLinearSm90Params = bytemuck::pod_read_unaligned(&launch.params);
    Some((params.shares, launch.grid[0]))
}

#[test]
fn every_stage_has_one_block_and_every_part_of_dx_is_added_once() {
    if unavailable().is_some() {
        return;
    }
    let device = Device::Cuda(Gpu::new(Emulator::new()));
    let Device::Cuda(gpu) = &device else { unreachable!() };
    let (mut cases, mut uneven) = (0, 0);
    for multiprocessors in [132, 114, 78, 113, 33] {
        for inputs in [128, 256, 640, 1536, 4096, 14336] {
            for outputs in [&[8][..], &[40], &[1024, 8, 520], &[4096, 1024, 1024], &[4096], &[2048, 2048]] {
                let Some((shares, blocks)) = shares(multiprocessors, inputs, outputs) else { continue };
                cases += 1;
                let what = format!("{outputs:?} x {inputs} on {multiprocessors} multiprocessors");
                let (strips, height) = (shares.strips as usize, shares.height as usize);
                assert_eq!((strips, height), (inputs / 128, outputs.iter().map(|n| n.div_ceil(32)).sum()), "{what}");
                assert!(blocks <= multiprocessors, "{what}: {blocks} blocks");
                uneven += u32::from(shares.extras > 0);
                let parts = multiprocessors as usize + strips;
                let counts = |len: usize| Tensor::zeros(&device, DType::F32, &[len]).unwrap();
                let (met, left, added) = (counts(strips * height), counts(parts), counts(parts));
                let run = |kernel, blocks, parts: &Tensor, dx: &Tensor| {
                    let (parts, dx) = (parts.address().unwrap(), dx.address().unwrap());
                    let params = AdamwLinearSumParams { parts, dx, shares, ..Default::default() };
                    gpu.launch(&Launch::new("shares", kernel, [blocks, 1, 1], 1, params)).unwrap();
                };
                run("walk", blocks, &met, &left);
                run("add_up", shares.strips, &added, &added);
                let bits =
                    |t: &Tensor| -> Vec<u32> { t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
                let [met, left, added] = [met, left, added].map(|counts| bits(&counts));
                assert!(met.iter().all(|&times| times == 1), "{what}: {shares:?}");
                // A part that two blocks or strips left would not be one strip's number in both.
                assert_eq!(left, added, "{what}: {shares:?}");
                let of_strip = |strip: u32| left.iter().filter(|&&part| part == 1 + strip).count();
                assert!(
                    (0..shares.strips).all(|strip| of_strip(strip) >= shares.members as usize),
                    "{what}: {shares:?}"
                );
            }
        }
    }
    assert!(cases > 100 && uneven > 20, "{cases} cases, {uneven} of them with blocks left over");
}
