//! No op allocates: what it needs beside its arguments is the workspace, which can be made beforehand.

use crate::emulator::{self, Emulator};
use crate::support::{Counting, gpus, normal, rng};
use kiungo::device::{DType, Device, Gpu, Tensor};
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::contrast::{self, Contrast, Loss};
use kiungo::ops::cross_entropy::{self, IGNORE};
use kiungo::ops::infonce::{self, Direction};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::lora::{self, Factors};
use kiungo::ops::nf4::{self, Nf4Tensor};
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::sequences::Sequences;
use kiungo::ops::{cosine, residual, rmsnorm, rope, swiglu, triplet};

/// Calls an op after reserving what its documentation says; it must allocate nothing, nor less be enough.
fn uses(
    what: &str,
    bytes: impl Fn(&Gpu) -> usize,
    prepare: impl Fn(&Device) -> Box<dyn FnMut() -> kiungo::ops::Result>,
) {
    if emulator::unavailable().is_some() {
        return;
    }
    let (gpu, calls) = Counting::gpu(Box::new(Emulator::new()));
    let mut op = prepare(&Device::Cuda(gpu.clone()));
    let bytes = bytes(&gpu);
    gpu.reserve(bytes).unwrap();
    assert_eq!(gpu.workspace_bytes(), bytes, "{what}");
    let before = calls.of("allocate");
    op().unwrap();
    op().unwrap();
    assert_eq!(calls.of("allocate"), before, "{what} allocates beside a workspace of {bytes} bytes");
    assert_eq!(gpu.workspace_bytes(), bytes, "{what}");
}

fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(device, dtype, shape).unwrap()
}

#[test]
fn linear_over_nf4_uses_room_for_the_weight() {
    let weight = |device: &Device| {
        let dense = Tensor::from_slice(device, &normal(&mut rng(1), 40 * 64), &[40, 64]).unwrap();
        Weight::Nf4(Nf4Tensor::quantize(&dense, false).unwrap())
    };
    uses(
        "linear over NF4",
        |_| 40 * 64 * 2,
        |device| {
            let (weight, x) = (weight(device), zeros(device, DType::Bf16, &[3, 64]));
            let mut y = zeros(device, DType::Bf16, &[3, 40]);
            Box::new(move || linear::forward(&x, &weight, &mut y))
        },
    );
    uses(
        "linear over NF4 backward",
        |_| 40 * 64 * 2,
        |device| {
            let (weight, dy) = (weight(device), zeros(device, DType::Bf16, &[3, 40]));
            let mut dx = zeros(device, DType::Bf16, &[3, 64]);
            Box::new(move || linear::backward_input(&dy, &weight, &mut dx, false))
        },
    );
}

#[test]
fn double_quantisation_uses_room_for_the_scales() {
    uses(
        "nf4 quantize, double",
        |_| 2048 + 4 * 10,
        |device| {
            let x = Tensor::from_slice(device, &normal(&mut rng(1), 640), &[10, 64]).unwrap();
            let mut quantized = Nf4Tensor::empty(device, [10, 64], true).unwrap();
            Box::new(move || nf4::quantize(&x, &mut quantized))
        },
    );
    uses(
        "nf4 quantize",
        |_| 0,
        |device| {
            let x = Tensor::from_slice(device, &normal(&mut rng(1), 640), &[10, 64]).unwrap();
            let mut quantized = Nf4Tensor::empty(device, [10, 64], false).unwrap();
            Box::new(move || nf4::quantize(&x, &mut quantized))
        },
    );
}

#[test]
fn losses_use_two_numbers_a_pair_and_direction() {
    let n = 5;
    let matrices = |device: &Device| {
        let similarity = Tensor::from_slice(device, &normal(&mut rng(1), n * n), &[n, n]).unwrap();
        (similarity, zeros(device, DType::F32, &[1]), zeros(device, DType::F32, &[n, n]))
    };
    uses(
        "infonce",
        |_| 16 * n * 2,
        |device| {
            let (similarity, mut loss, mut gradient) = matrices(device);
            Box::new(move || infonce::forward(&similarity, None, 0.05, Direction::Both, &mut loss, &mut gradient))
        },
    );
    uses(
        "triplet hardest",
        |_| 16 * n,
        |device| {
            let (similarity, mut loss, mut gradient) = matrices(device);
            Box::new(move || triplet::hardest(&similarity, None, Direction::Forward, 0.2, &mut loss, &mut gradient))
        },
    );
    uses(
        "triplet given",
        |_| 8 * n,
        |device| {
            let rows = || zeros(device, DType::F32, &[n, 8]);
            let (a, p, m, mut da, mut dp, mut dm) = (rows(), rows(), rows(), rows(), rows(), rows());
            let mut loss = zeros(device, DType::F32, &[1]);
            Box::new(move || triplet::given(&a, &p, &m, 0.2, &mut loss, &mut da, &mut dp, &mut dm))
        },
    );
    let hidden = 264;
    uses(
        "contrast",
        |_| contrast::workspace_bytes(hidden),
        |device| {
            let sequences = Sequences::new(device, &[2, 1, 3, 1]).unwrap();
            let h = zeros(device, DType::F32, &[7, hidden]);
            let (mut pooled, mut dpooled) =
                (zeros(device, DType::F32, &[4, hidden]), zeros(device, DType::F32, &[4, hidden]));
            let (mut value, mut dh) = (zeros(device, DType::F32, &[1]), zeros(device, DType::F32, &[7, hidden]));
            Box::new(move || {
                let (pooling, loss, direction) = (Pooling::Mean, Loss::Triplet { margin: 0.2 }, Direction::Both);
                let what = Contrast { sequences: &sequences, pooling, loss, direction, excluded: None };
                contrast::forward_backward(&h, &what, &mut pooled, &mut dpooled, &mut value, &mut dh)
            })
        },
    );
}

#[test]
fn cross_entropy_uses_room_for_a_chunk_of_logits() {
    let (tokens, h, vocab) = (5, 8, 30);
    uses(
        "cross_entropy",
        |_| 256 + 4 * tokens * vocab,
        |device| {
            let (hidden, head) = (zeros(device, DType::F32, &[tokens, h]), zeros(device, DType::F32, &[vocab, h]));
            let labels = Tensor::from_slice(device, &[0u32, 1, 2, 29, IGNORE], &[tokens]).unwrap();
            let [mut loss, mut dhidden] = [&[1][..], &[tokens, h]].map(|shape| zeros(device, DType::F32, shape));
            let mut dhead = zeros(device, DType::F32, &[vocab, h]);
            Box::new(move || {
                cross_entropy::forward_backward(
                    &hidden,
                    &head,
                    &labels,
                    &mut loss,
                    Some(&mut dhidden),
                    Some(&mut dhead),
                )
            })
        },
    );
}

/// The ops of a Llama's block, forward and backward: LoRA alone uses some.
#[test]
fn lora_uses_room_for_partial_sums_and_the_others_none() {
    const HEADS: Heads = Heads { query: 4, key_value: 2, dim: 64 };
    let lengths = [3, 1];
    let bytes = |gpu: &Gpu| lora::workspace(gpu, lengths.iter().sum(), 8, 1);
    uses("a block's ops", bytes, |device| {
        let sequences = Sequences::new(device, &lengths).unwrap();
        let tokens = sequences.tokens();
        let bf16 = |columns: usize| zeros(device, DType::Bf16, &[tokens, columns]);
        let f32s = |shape: &[usize]| zeros(device, DType::F32, shape);
        let (x, weight) = (bf16(64), f32s(&[64]));
        let (mut y, mut dx, mut inv_rms) = (bf16(64), bf16(64), f32s(&[tokens]));
        let (mut q, k, v, mut o, mut dq, mut dk, mut dv) =
            (bf16(256), bf16(128), bf16(128), bf16(256), bf16(256), bf16(128), bf16(128));
        let (mut lse, mut delta) = (f32s(&[tokens, HEADS.query]), f32s(&[tokens, HEADS.query]));
        let table = rope::Table::new(device, &vec![1.0; 32], tokens).unwrap();
        let (a, b) = (f32s(&[8, 64]), f32s(&[256, 8]));
        let (mut s, mut ds, mut da, mut db) = (f32s(&[tokens, 8]), f32s(&[tokens, 8]), f32s(&[8, 64]), f32s(&[256, 8]));
        let dense = Weight::Dense(zeros(device, DType::Bf16, &[256, 64]));
        let (mut pooled, mut unit, mut norm, mut dunit) = (f32s(&[2, 64]), f32s(&[2, 64]), f32s(&[2]), f32s(&[2, 64]));
        Box::new(move || {
            rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms)?;
            linear::forward(&y, &dense, &mut q)?;
            let factors = Factors::new(&a, &b, 1.0);
            lora::forward(&y, &factors, &mut s, &mut q)?;
            rope::forward(&mut q, sequences.positions(), &table, HEADS.dim)?;
            attention::forward(&q, &k, &v, &sequences, HEADS, &mut o, &mut lse)?;
            attention::backward(&o, &q, &k, &v, &o, &lse, &sequences, HEADS, &mut dq, &mut dk, &mut dv, &mut delta)?;
            rope::backward(&mut dq, sequences.positions(), &table, HEADS.dim)?;
            lora::backward(&dq, &y, &s, &factors, &mut ds, &mut da, &mut db, Some(&mut dx))?;
            linear::backward_input(&dq, &dense, &mut dx, true)?;
            rmsnorm::backward(&x, &x, &weight, &inv_rms, &mut dx, None)?;
            swiglu::forward(&k, &v, &mut dk)?;
            residual::add(&mut dk, &v)?;
            pooling::forward(&x, &sequences, Pooling::MeanNoSink, &mut pooled)?;
            cosine::normalize(&pooled, &mut unit, &mut norm)?;
            cosine::normalize_backward(&unit, &pooled, &norm, &mut dunit)?;
            pooling::backward(&dunit, &sequences, Pooling::MeanNoSink, &mut dx)
        })
    });
}

#[test]
fn the_gradient_of_a_norm_uses_a_row_a_block() {
    // Eight blocks of 64 threads a multiprocessor.
    uses(
        "rmsnorm backward",
        |gpu| 4 * 576 * 8 * gpu.multiprocessors() as usize,
        |device| {
            let rows = || zeros(device, DType::F32, &[30, 576]);
            let (x, dy, mut dx, inv_rms) = (rows(), rows(), rows(), zeros(device, DType::F32, &[30]));
            let (weight, mut dweight) = (zeros(device, DType::F32, &[576]), zeros(device, DType::F32, &[576]));
            Box::new(move || rmsnorm::backward(&dy, &x, &weight, &inv_rms, &mut dx, Some(&mut dweight)))
        },
    );
}

#[test]
fn it_grows_only_when_more_is_asked_for() {
    for device in gpus() {
        let Device::Cuda(gpu) = device else { continue };
        gpu.reserve(1000).unwrap();
        let first = gpu.workspace(1000).unwrap();
        assert_eq!(gpu.workspace(10).unwrap(), first);
        gpu.reserve(1).unwrap();
        assert_eq!(gpu.workspace_bytes(), 1000);
        gpu.reserve(2000).unwrap();
        assert_eq!(gpu.workspace_bytes(), 2000);
    }
}
