//! Ops on streams and memory of a caller's. The tests that need cudarc's slices need a GPU.

use crate::support::{gpus, normal, relative_error, rng, tensor, under_sanitizer};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use half::bf16;
use kiungo::device::cuda::{self, Driver};
use kiungo::device::{DType, Device, DeviceError, Gpu, Tensor};
use kiungo::ops::{OpError, residual, rmsnorm};
use std::sync::Arc;

const SHAPE: [usize; 2] = [33, 64];

fn input() -> (Vec<f32>, Vec<f32>) {
    let mut rng = rng(1);
    (normal(&mut rng, SHAPE[0] * SHAPE[1]), normal(&mut rng, SHAPE[1]))
}

/// `rmsnorm` on the CPU.
fn expected() -> Vec<f32> {
    let (x, weight) = input();
    let (mut y, mut inv_rms) = (tensor(&vec![0.0; x.len()], &SHAPE), tensor(&[0.0; SHAPE[0]], &[SHAPE[0]]));
    rmsnorm::forward(&tensor(&x, &SHAPE), &tensor(&weight, &[SHAPE[1]]), 1e-5, &mut y, &mut inv_rms).unwrap();
    y.to_vec().unwrap()
}

#[track_caller]
fn assert_normalised(found: &[f32]) {
    let error = relative_error(found, &expected());
    assert!(error < 2e-6, "relative error {error:.2e}");
}

/// The GPU of the other tests, where there is one.
fn gpu() -> Option<Gpu> {
    gpus().into_iter().find_map(|device| match device {
        Device::Cuda(gpu) if gpu.stream().is_some() => Some(gpu),
        _ => None,
    })
}

/// A caller's context and stream, and ops on it; None without a GPU.
fn caller() -> Option<(Arc<CudaStream>, Gpu)> {
    gpu()?;
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let gpu = Gpu::on_stream(stream.clone()).unwrap();
    Some((stream, gpu))
}

#[test]
fn addresses_serve_as_tensors() {
    let (x, weight) = input();
    for device in gpus() {
        let Device::Cuda(gpu) = &device else { continue };
        let (x, weight) = (Tensor::from_slice(&device, &x, &SHAPE), Tensor::from_slice(&device, &weight, &[SHAPE[1]]));
        let (x, weight) = (x.unwrap(), weight.unwrap());
        let y = Tensor::zeros(&device, DType::F32, &SHAPE).unwrap();
        let mut inv_rms = Tensor::zeros(&device, DType::F32, &[SHAPE[0]]).unwrap();
        // SAFETY: x and y live on the same GPU for as long as these.
        let (x, mut out) = unsafe {
            let raw = |t: &Tensor| Tensor::from_raw(gpu, t.dtype(), t.address().unwrap(), t.shape()).unwrap();
            (raw(&x), raw(&y))
        };
        rmsnorm::forward(&x, &weight, 1e-5, &mut out, &mut inv_rms).unwrap();
        drop(out);
        assert_normalised(&y.to_vec::<f32>().unwrap());
        // SAFETY: it is refused.
        let refused = unsafe { Tensor::from_raw(gpu, DType::F32, y.address().unwrap() + 4, &[2]) };
        assert!(matches!(refused, Err(DeviceError::Alignment { needed: 16, .. })), "{refused:?}");
        assert!(matches!(y.into_slice::<f32>(), Err(DeviceError::NoSlice(DType::F32))));
    }
}

#[test]
fn slices_are_used_in_place_on_the_callers_stream() {
    let Some((stream, gpu)) = caller() else { return };
    let (x, weight) = input();
    let (x, weight) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&weight).unwrap());
    let mut y: CudaSlice<f32> = stream.alloc_zeros(x.len()).unwrap();
    let mut inv_rms: CudaSlice<f32> = stream.alloc_zeros(SHAPE[0]).unwrap();
    {
        let x = Tensor::borrow(&gpu, x.as_view(), &SHAPE).unwrap();
        let weight = Tensor::borrow(&gpu, weight.as_view(), &[SHAPE[1]]).unwrap();
        let mut y = Tensor::borrow_mut(&gpu, &mut y, &SHAPE).unwrap();
        let mut inv_rms = Tensor::borrow_mut(&gpu, &mut inv_rms, &[SHAPE[0]]).unwrap();
        rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
    }
    assert_eq!((y.len(), inv_rms.len()), (x.len(), SHAPE[0]), "the slices have come back");
    // The caller's copy is ordered behind the op by the stream alone.
    assert_normalised(&stream.clone_dtoh(&y).unwrap());
    stream.context().check_err().unwrap();
}

#[test]
fn slices_are_adopted_and_given_back() {
    let Some((stream, gpu)) = caller() else { return };
    let (x, weight) = input();
    let adopt =
        |values: &[f32], shape: &[usize]| Tensor::adopt(&gpu, stream.clone_htod(values).unwrap(), shape).unwrap();
    let (x, weight) = (adopt(&x, &SHAPE), adopt(&weight, &[SHAPE[1]]));
    let (mut y, mut inv_rms) = (adopt(&vec![0.0; x.len()], &SHAPE), adopt(&[0.0; SHAPE[0]], &[SHAPE[0]]));
    rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
    let y: CudaSlice<f32> = y.into_slice().unwrap();
    assert_normalised(&stream.clone_dtoh(&y).unwrap());
    assert!(matches!(x.into_slice::<bf16>(), Err(DeviceError::NoSlice(DType::Bf16))));
    stream.context().check_err().unwrap();
}

/// Input made on one stream, used on a second, read on a third: events order them.
#[test]
fn other_streams_wait() {
    let Some((stream, gpu)) = caller() else { return };
    let context = stream.context();
    let (before, after) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let (x, weight) = input();
    let weight = stream.clone_htod(&weight).unwrap();
    for _ in 0..20 {
        // A large copy first, so that a missing wait would show.
        let large = before.alloc_zeros::<u8>(64 << 20).unwrap();
        let _copy = before.clone_dtod(&large).unwrap();
        let x = before.clone_htod(&x).unwrap();
        let mut y = before.alloc_zeros::<f32>(x.len()).unwrap();
        let mut inv_rms = before.alloc_zeros::<f32>(SHAPE[0]).unwrap();
        {
            let x = Tensor::borrow(&gpu, x.as_view(), &SHAPE).unwrap();
            let weight = Tensor::borrow(&gpu, weight.as_view(), &[SHAPE[1]]).unwrap();
            let mut y = Tensor::borrow_mut(&gpu, &mut y, &SHAPE).unwrap();
            let mut inv_rms = Tensor::borrow_mut(&gpu, &mut inv_rms, &[SHAPE[0]]).unwrap();
            rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
        }
        assert_normalised(&after.clone_dtoh(&y).unwrap());
    }
    context.check_err().unwrap();
}

/// Two streams of one context share its kernels; two contexts have their own.
#[test]
fn several_streams_and_contexts() {
    let Some((stream, first)) = caller() else { return };
    let driver = Driver::on(stream.clone()).unwrap();
    let beside = Gpu::new(driver.beside(stream.context().new_stream().unwrap()).unwrap());
    // Another device, where there are two.
    let last = cuda::device_count().unwrap() - 1;
    let elsewhere = CudaContext::new(last).unwrap().new_stream().unwrap();
    assert!(matches!(driver.beside(elsewhere.clone()), Err(DeviceError::OtherContext { .. })));
    let elsewhere = Gpu::on_stream(elsewhere).unwrap();
    let (x, weight) = input();
    let gpus = [first, beside, elsewhere];
    let rounds = if under_sanitizer() { 5 } else { 50 };
    std::thread::scope(|scope| {
        for gpu in &gpus {
            scope.spawn(|| {
                let device = Device::Cuda(gpu.clone());
                let x = Tensor::from_slice(&device, &x, &SHAPE).unwrap();
                let weight = Tensor::from_slice(&device, &weight, &[SHAPE[1]]).unwrap();
                let mut inv_rms = Tensor::zeros(&device, DType::F32, &[SHAPE[0]]).unwrap();
                for _ in 0..rounds {
                    let mut y = Tensor::zeros(&device, DType::F32, &SHAPE).unwrap();
                    rmsnorm::forward(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
                    assert_normalised(&y.to_vec::<f32>().unwrap());
                }
            });
        }
    });
    // Tensors of two streams do not meet in one op.
    let [mut a, b] = [0, 1].map(|i| Tensor::zeros(&Device::Cuda(gpus[i].clone()), DType::F32, &SHAPE).unwrap());
    let refused = residual::add(&mut a, &b);
    assert!(matches!(refused, Err(OpError::Device { .. })), "{refused:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some((stream, gpu)) = caller() else { return };
    let mut slice: CudaSlice<f32> = stream.alloc_zeros(12).unwrap();
    let short = Tensor::borrow(&gpu, slice.as_view(), &[2, 5]);
    assert!(matches!(short, Err(DeviceError::Length { expected: 10, found: 12, .. })), "{short:?}");
    let odd = Tensor::borrow(&gpu, slice.slice(1..5), &[4]);
    assert!(matches!(odd, Err(DeviceError::Alignment { .. })), "{odd:?}");
    drop((short, odd));
    assert!(Tensor::borrow_mut(&gpu, &mut slice, &[13]).is_err());
    assert_eq!(slice.len(), 12, "a refused slice stays where it was");
    let other = CudaContext::new(0).unwrap().new_stream().unwrap();
    let foreign: CudaSlice<f32> = other.alloc_zeros(12).unwrap();
    let foreign = Tensor::adopt(&gpu, foreign, &[12]);
    assert!(matches!(foreign, Err(DeviceError::OtherContext { .. })), "{foreign:?}");
}

/// Whatever becomes of the tensor, it keeps its memory.
#[test]
fn an_exchanged_tensor_keeps_its_memory() {
    let Some((stream, gpu)) = caller() else { return };
    let mut slice = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let mut borrowed = Tensor::borrow_mut(&gpu, &mut slice, &[4]).unwrap();
    let other = Tensor::zeros(&Device::Cuda(gpu.clone()), DType::F32, &[4]).unwrap();
    let taken = std::mem::replace(&mut *borrowed, other);
    drop(borrowed);
    assert_eq!(slice.len(), 0);
    drop(slice);
    assert_eq!(taken.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0], "the tensor that was taken out");
}
