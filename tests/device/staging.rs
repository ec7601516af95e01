//! What a step stages, on every device.

use crate::emulator::{self, Emulator};
use crate::support::{Counting, gpus};
use kiungo::device::{DType, Device, Staging, Tensor};

const CAPACITIES: [usize; 4] = [5, 3, 7, 2];

/// Tensors whose contents are told apart from what is written.
fn tensors(device: &Device) -> Vec<Tensor> {
    CAPACITIES.iter().map(|&n| Tensor::from_vec(device, vec![u32::MAX; n], &[n]).unwrap()).collect()
}

/// Writes what step `step` writes to tensor `i`: of its elements the first few.
fn write(staging: &mut Staging, tensor: &mut Tensor, [i, step, len]: [usize; 3]) {
    let data: Vec<u32> = (0..len).map(|j| (i * 100 + step * 10 + j) as u32).collect();
    tensor.set_rows(len).unwrap();
    staging.write(&data, tensor).unwrap();
}

#[test]
fn gathered_tensors_get_what_is_written_to_them() {
    for device in [Device::Cpu].into_iter().chain(gpus()) {
        let mut all = tensors(&device);
        let mut staging = Staging::new(&device, 2, 4 * Staging::bytes(CAPACITIES.map(|n| n * 4))).unwrap();
        // The last stays where it is.
        staging.gather(all.iter_mut().take(3).collect()).unwrap();
        // In order, some alone, backwards, with what is not gathered in between, and twice.
        for (step, order) in [&[0, 1, 2][..], &[1], &[2, 1, 0], &[0, 3, 1, 2], &[1, 2, 1, 2]].into_iter().enumerate() {
            staging.begin();
            for (turn, &i) in order.iter().enumerate() {
                write(&mut staging, &mut all[i], [i, step + turn % 2, CAPACITIES[i] - turn % 2]);
            }
            staging.flush().unwrap();
            for (turn, &i) in order.iter().enumerate() {
                if order[turn + 1..].contains(&i) {
                    continue;
                }
                let expected: Vec<u32> =
                    (0..CAPACITIES[i] - turn % 2).map(|j| (i * 100 + (step + turn % 2) * 10 + j) as u32).collect();
                assert_eq!(all[i].to_vec::<u32>().unwrap(), expected, "tensor {i}, {order:?} on {device}");
            }
        }
    }
}

#[test]
fn neighbours_go_in_one_copy() {
    if emulator::unavailable().is_some() {
        return;
    }
    let (gpu, calls) = Counting::gpu(Box::new(Emulator::new()));
    let device = Device::Cuda(gpu);
    let mut all = tensors(&device);
    let mut staging = Staging::new(&device, 1, Staging::bytes(CAPACITIES.map(|n| n * 4))).unwrap();
    staging.gather(all.iter_mut().collect()).unwrap();
    staging.begin();
    let before = calls.of("upload_pinned");
    all.iter_mut().enumerate().for_each(|(i, tensor)| write(&mut staging, tensor, [i, 1, 2]));
    staging.flush().unwrap();
    assert_eq!(calls.of("upload_pinned") - before, 1);
    assert_eq!(all[3].to_vec::<u32>().unwrap(), [310, 311]);
    assert_eq!(all[0].dtype(), DType::U32);
}
