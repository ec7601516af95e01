//! A training step without a copy back: what varies from step to step, and what a step finds out, lives in memory of
//! the device, so that its launches are the same every time (a CUDA graph can hold them) and the host waits for none.
//!
//! The host writes a [`State`] before a step's launches. When the loss and the gradient are known, [`judge`] leaves the
//! norm, the factor of clipping and whether to go on in a [`Status`], which AdamW reads, and a record in [`Metrics`],
//! which the host reads some steps later.

use super::adamw::Coefficients;
use super::check::{Check, F32, U8};
use super::params::{KIUNGO_STOPPED_FOR_GOOD, StepRecord, StepState, StepStatus};
use super::{OpError, Result};
use crate::device::{DType, Device, DeviceError, Pinned, Staging, Tensor};
use bytemuck::Pod;

/// [`StepRecord::stopped`] of a step that changed nothing, as no later one will; 1 is that of a step left out alone.
pub const LATCHED: u32 = KIUNGO_STOPPED_FOR_GOOD;

/// What varies from step to step: the host writes it, kernels read it.
#[derive(Debug)]
pub struct State(Tensor);

/// What a step has found out: [`judge`] writes it, AdamW reads it.
#[derive(Debug)]
pub struct Status(Tensor);

impl State {
    /// Room on a device; contents undefined until [`State::set`].
    pub fn new(device: &Device) -> Result<State> {
        Ok(State(block::<StepState>(device)?))
    }

    /// Bytes that [`State::set`] stages.
    pub const BYTES: usize = size_of::<StepState>();

    /// Sets it for what is launched from now on, without waiting for the device.
    ///
    /// - `step`: what dropout reads
    /// - `serial`: of this launch, counted from 1: the number of its record
    /// - `max_norm`: largest norm of the gradient, which is scaled down to it
    pub fn set(
        &mut self,
        staging: &mut Staging,
        step: u32,
        serial: u32,
        adamw: Coefficients,
        max_norm: Option<f32>,
    ) -> Result {
        let state = StepState { adamw, max_norm: max_norm.unwrap_or(f32::INFINITY), step, serial, unused: 0 };
        Ok(staging.write(bytemuck::bytes_of(&state), &mut self.0)?)
    }

    /// For [`Staging::gather`].
    pub(crate) fn tensor_mut(&mut self) -> &mut Tensor {
        &mut self.0
    }

    pub(crate) fn check(&self, check: &Check) -> Result {
        check.tensor("state", &self.0, &[Self::BYTES], U8)
    }

    pub(crate) fn address(&self) -> std::result::Result<u64, DeviceError> {
        self.0.address()
    }

    /// On the CPU.
    pub(crate) fn read(&self) -> Result<StepState> {
        read(&self.0)
    }
}

impl Status {
    /// Nothing has happened yet.
    pub fn new(device: &Device) -> Result<Status> {
        Ok(Status(block::<StepStatus>(device)?))
    }

    /// Says how many steps may be left out because their loss or gradient is not finite, and how many were. Without this
    /// call none may.
    pub fn allow(&mut self, allowed: u32, skipped: u32) -> Result {
        let status = StepStatus { allowed, skipped, ..StepStatus::default() };
        Ok(self.0.write(bytemuck::bytes_of(&status))?)
    }

    pub(crate) fn check(&self, check: &Check) -> Result {
        check.tensor("status", &self.0, &[size_of::<StepStatus>()], U8)
    }

    pub(crate) fn address(&self) -> std::result::Result<u64, DeviceError> {
        self.0.address()
    }

    /// On the CPU.
    pub(crate) fn read(&self) -> Result<StepStatus> {
        read(&self.0)
    }
}

fn block<T: Pod>(device: &Device) -> Result<Tensor> {
    Ok(Tensor::zeros(device, DType::U8, &[size_of::<T>()])?)
}

fn read<T: Pod>(tensor: &Tensor) -> Result<T> {
    Ok(bytemuck::pod_read_unaligned(tensor.as_slice::<u8>()?))
}

/// The records of the last steps, where the host reads them without waiting for the device: a ring in pinned memory
/// that kernels write to.
#[derive(Debug)]
pub struct Metrics {
    slots: u32,
    ring: Ring,
}

#[derive(Debug)]
enum Ring {
    Host(Vec<StepRecord>),
    Pinned(Pinned),
}

impl Metrics {
    /// Keeps the last `slots` records.
    pub fn new(device: &Device, slots: u32) -> Result<Metrics> {
        let slots = slots.max(1);
        let ring = match device {
            Device::Cpu => Ring::Host(vec![StepRecord::default(); slots as usize]),
            Device::Cuda(gpu) => Ring::Pinned(Pinned::new(gpu, slots as usize * size_of::<StepRecord>())?),
        };
        Ok(Metrics { slots, ring })
    }

    /// The record of a launch, by its serial, if it is there. Not for launches that are `slots` or more steps back.
    pub fn read(&self, serial: u32) -> Option<StepRecord> {
        let slot = (serial % self.slots) as usize;
        let record = match &self.ring {
            Ring::Host(records) => records[slot],
            Ring::Pinned(pinned) => {
                let word = |i: usize| pinned.word(slot * size_of::<StepRecord>() + i * 4);
                // The kernel writes the serial last, so it is read first.
                let serial = word(3);
                let [loss, gradient_norm] = [0, 1].map(|i| f32::from_bits(word(i)));
                StepRecord { loss, gradient_norm, stopped: word(2), serial }
            }
        };
        (record.serial == serial).then_some(record)
    }

    /// The same, waiting until it is there. An error if the device has failed, or has nothing left to do.
    pub fn wait(&self, device: &Device, serial: u32) -> Result<StepRecord> {
        /// Looks at the ring between two looks at the device, which cost more.
        const LOOKS: usize = 64;
        loop {
            let finished = match device {
                Device::Cpu => true,
                Device::Cuda(gpu) => gpu.finished()?,
            };
            for _ in 0..LOOKS {
                if let Some(record) = self.read(serial) {
                    return Ok(record);
                }
                std::thread::yield_now();
            }
            if finished {
                return Err(OpError::Value { op: "step", message: format!("launch {serial} has left no record") });
            }
        }
    }
}

/// Judges a step whose loss and gradient are known.
///
/// The gradient's norm is the root of the sum of `squares`; its factor is `max_norm / (norm + 1e-6)`, at most 1, as
/// torch's `clip_grad_norm_` has it. Where loss or norm are not finite the status says `stopped`, and AdamW changes
/// nothing: in this step alone, or, once more steps were like that than [`Status::allow`] says, in every step from
/// then on. The record goes to `metrics`.
///
/// - `loss`: `[1]`, f32
/// - `squares`: `[n]`, f32, as [`super::clip::squares`] leaves them
pub fn judge(loss: &Tensor, squares: &Tensor, state: &State, status: &mut Status, metrics: &mut Metrics) -> Result {
    let check = Check::new("step", loss);
    check.tensor("loss", loss, &[1], F32)?;
    check.tensor("squares", squares, &[squares.len()], F32)?;
    state.check(&check)?;
    status.check(&check)?;
    match (check.device(), &mut metrics.ring) {
        (Device::Cpu, Ring::Host(ring)) => {
            let state = state.read()?;
            let (found, record) = cpu::judge(loss.as_slice::<f32>()?[0], squares.as_slice()?, &state, status.read()?);
            status.0.write(bytemuck::bytes_of(&found))?;
            ring[(state.serial % metrics.slots) as usize] = record;
            Ok(())
        }
        (Device::Cuda(gpu), Ring::Pinned(ring)) => {
            Ok(gpu.launch(&cuda::judge(loss, squares, state, status, ring, metrics.slots)?)?)
        }
        _ => check.value(false, || "the metrics are of another device".into()),
    }
}

/// Prepares the status for updates that come before the gradient's norm is known: they are left out where the loss is not
/// finite, and nothing is clipped. [`judge`] follows them.
///
/// - `loss`: `[1]`, f32
pub fn begin(loss: &Tensor, status: &mut Status) -> Result {
    let check = Check::new("step", loss);
    check.tensor("loss", loss, &[1], F32)?;
    status.check(&check)?;
    match check.device() {
        Device::Cpu => {
            let found = cpu::begin(loss.as_slice::<f32>()?[0], status.read()?);
            Ok(status.0.write(bytemuck::bytes_of(&found))?)
        }
        Device::Cuda(gpu) => Ok(gpu.launch(&cuda::begin(loss, status)?)?),
    }
}

/// The reference.
pub mod cpu {
    use super::LATCHED;
    use crate::ops::params::{StepRecord, StepState, StepStatus};

    /// See [`super::begin`].
    pub fn begin(loss: f32, status: StepStatus) -> StepStatus {
        // The step is counted when it is judged.
        let for_good = status.skipped + u32::from(!loss.is_finite()) > status.allowed;
        let stopped = if for_good { LATCHED } else { u32::from(!loss.is_finite()) };
        StepStatus { factor: 1.0, stopped, ..status }
    }

    /// See [`super::judge`]: the new status, and the record.
    pub fn judge(loss: f32, squares: &[f32], state: &StepState, status: StepStatus) -> (StepStatus, StepRecord) {
        let gradient_norm = squares.iter().map(|&s| f64::from(s)).sum::<f64>().sqrt() as f32;
        let finite = loss.is_finite() && gradient_norm.is_finite();
        let skipped = status.skipped.saturating_add(u32::from(!finite));
        let stopped = if skipped > status.allowed { LATCHED } else { u32::from(!finite) };
        let factor = (state.max_norm / (gradient_norm + 1e-6)).min(1.0);
        let record = StepRecord { loss, gradient_norm, stopped, serial: state.serial };
        (StepStatus { gradient_norm, factor, stopped, allowed: status.allowed, skipped }, record)
    }
}

mod cuda {
    use super::{State, Status};
    use crate::device::{Launch, Pinned, Tensor};
    use crate::ops::Result;
    use crate::ops::params::StepJudgeParams;

    const THREADS: u32 = 1024;

    pub fn begin(loss: &Tensor, status: &Status) -> Result<Launch> {
        let params = StepJudgeParams { loss: loss.address()?, status: status.address()?, ..Default::default() };
        Ok(Launch::new("step", "step_begin", [1, 1, 1], 32, params))
    }

    pub fn judge(
        loss: &Tensor,
        squares: &Tensor,
        state: &State,
        status: &Status,
        ring: &Pinned,
        slots: u32,
    ) -> Result<Launch> {
        let params = StepJudgeParams {
            squares: squares.address()?,
            count: squares.len() as u64,
            loss: loss.address()?,
            state: state.address()?,
            status: status.address()?,
            ring: ring.address(),
            slots: slots.into(),
        };
        Ok(Launch::new("step", "step_judge", [1, 1, 1], THREADS, params))
    }
}
