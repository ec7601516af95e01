use super::tensor::{Allocation, Owner, Storage};
use super::{Device, DeviceError, Element, Gpu, Tensor};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Host memory that a GPU reads and writes too, while kernels run: pinned, and mapped into its addresses.
#[derive(Debug)]
pub struct Pinned {
    gpu: Gpu,
    host: u64,
    address: u64,
    bytes: usize,
}

impl Pinned {
    /// Zeros.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Pinned, DeviceError> {
        let [host, address] = gpu.allocate_pinned(bytes.max(1))?;
        Ok(Pinned { gpu: gpu.clone(), host, address, bytes })
    }

    /// Where kernels find it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Sets bytes. Nothing that was launched may be reading them still.
    ///
    /// Panics beyond the end.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.bytes, "{} bytes at {at} of {} pinned ones", data.len(), self.bytes);
        // SAFETY: inside the allocation, which lives as long as `self`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), (self.host as *mut u8).add(at), data.len()) }
    }

    /// Some of its bytes, to write. Nothing that was launched may be reading them still.
    ///
    /// Panics beyond the end.
    pub fn bytes_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        assert!(at + bytes <= self.bytes, "{bytes} bytes at {at} of {} pinned ones", self.bytes);
        // SAFETY: inside the allocation, which lives as long as `self` and was written when it was made.
        unsafe { std::slice::from_raw_parts_mut((self.host as *mut u8).add(at), bytes) }
    }

    /// A word that a kernel may be about to write, as it is now. What is read after it is as new as it is.
    ///
    /// Panics beyond the end, or off a word's alignment.
    pub fn word(&self, at: usize) -> u32 {
        assert!(at + 4 <= self.bytes && at.is_multiple_of(4), "word at {at} of {} pinned bytes", self.bytes);
        // SAFETY: inside the allocation and aligned; volatile, because the device may write it at any time.
        let word = unsafe { std::ptr::read_volatile((self.host as *const u8).add(at).cast::<u32>()) };
        fence(Ordering::Acquire);
        word
    }

    /// Copies some of it to a device address, behind what was launched before; returns at once.
    pub(crate) fn upload(&self, at: usize, bytes: usize, to: u64) -> Result<(), DeviceError> {
        assert!(at + bytes <= self.bytes, "{bytes} bytes at {at} of {} pinned ones", self.bytes);
        self.gpu.upload_pinned(self.host + at as u64, to, bytes)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Kernels and copies may still use it. An error here has been reported by an earlier call.
        let _ = self.gpu.synchronize();
        self.gpu.free_pinned(self.host);
    }
}

/// Carries small host data to tensors, anew at every step, without waiting for the device.
///
/// Each step has pinned memory of its own until `steps` further ones have begun; by then the caller must know that the
/// device has taken what was in it. On the CPU, data is written to its tensor at once.
///
/// A copy takes the device a microsecond whatever its size: tensors that were [gathered](Staging::gather) get theirs in one.
#[derive(Debug)]
pub struct Staging {
    slots: Vec<Pinned>,
    slot: usize,
    used: usize,
    /// Where each gathered tensor begins, in order.
    gathered: Vec<u64>,
    /// What was written to gathered tensors and not copied.
    pending: Option<Run>,
}

/// Neighbours among the gathered tensors that were written in their order.
#[derive(Clone, Copy, Debug)]
struct Run {
    at: usize,
    bytes: usize,
    to: u64,
    /// The last of them.
    last: usize,
}

/// Data of a step begin at multiples of this.
const ALIGNMENT: usize = 16;

impl Staging {
    /// For `bytes` bytes ([`Staging::bytes`]) in each of `steps` steps that may be under way at once.
    pub fn new(device: &Device, steps: usize, bytes: usize) -> Result<Staging, DeviceError> {
        let slots = match device {
            Device::Cpu => vec![],
            Device::Cuda(gpu) => (0..steps.max(1)).map(|_| Pinned::new(gpu, bytes)).collect::<Result<_, _>>()?,
        };
        Ok(Staging { slots, slot: 0, used: 0, gathered: vec![], pending: None })
    }

    /// Puts tensors side by side into memory of the device, as large as they may become; what they hold is undefined then. What
    /// is written to them from now on is copied by [`Staging::flush`], in one copy where neighbours are written in this order.
    ///
    /// On the CPU nothing changes.
    pub fn gather(&mut self, tensors: Vec<&mut Tensor>) -> Result<(), DeviceError> {
        let Some(gpu) = self.slots.first().map(|slot| slot.gpu.clone()) else { return Ok(()) };
        let bytes = Staging::bytes(tensors.iter().map(|t| t.allocated_bytes()));
        let owner = Owner::Tensor;
        let block = Arc::new(Allocation { gpu: gpu.clone(), address: gpu.allocate(bytes.max(1))?, owner });
        let mut address = block.address;
        for tensor in tensors {
            let next = address + Staging::bytes([tensor.allocated_bytes()]) as u64;
            self.gathered.push(address);
            let owner = Owner::Shared { _memory: block.clone() };
            tensor.storage = Storage::Gpu(Allocation { gpu: gpu.clone(), address, owner });
            address = next;
        }
        Ok(())
    }

    /// What data of these sizes take, in bytes.
    pub fn bytes(sizes: impl IntoIterator<Item = usize>) -> usize {
        sizes.into_iter().map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum()
    }

    /// Begins a step.
    pub fn begin(&mut self) {
        self.slot = if self.slots.is_empty() { 0 } else { (self.slot + 1) % self.slots.len() };
        self.used = 0;
        self.pending = None;
    }

    /// Replaces all elements of a tensor, for what is launched from now on.
    pub fn write<T: Element>(&mut self, data: &[T], to: &mut Tensor) -> Result<(), DeviceError> {
        let Some(slot) = self.slots.get_mut(self.slot) else { return to.write(data) };
        if data.len() != to.len() {
            return Err(DeviceError::Length { what: "staged write", expected: to.len(), found: data.len() });
        }
        if T::DTYPE != to.dtype() {
            return Err(DeviceError::DType { expected: T::DTYPE, found: to.dtype() });
        }
        let (data, address): (&[u8], u64) = (bytemuck::cast_slice(data), to.address()?);
        let gathered = self.gathered.iter().position(|&start| start == address);
        // A neighbour's place here is as far from that of the one before as it is there.
        let joined = self.pending.filter(|run| Some(run.last + 1) == gathered);
        let at = joined.map_or(self.used, |run| run.at + (address - run.to) as usize);
        let end = at + data.len().next_multiple_of(ALIGNMENT);
        if end > slot.bytes {
            return Err(DeviceError::Length { what: "bytes staged in a step", expected: slot.bytes, found: end });
        }
        slot.write(at, data);
        self.used = end;
        let Some(last) = gathered else {
            self.flush()?;
            return self.slots[self.slot].upload(at, data.len(), address);
        };
        if joined.is_none() {
            self.flush()?;
        }
        let Run { at: begin, to, .. } = joined.unwrap_or(Run { at, bytes: 0, to: address, last });
        self.pending = Some(Run { at: begin, bytes: at + data.len() - begin, to, last });
        Ok(())
    }

    /// Copies what was written to gathered tensors, for what is launched from now on.
    pub fn flush(&mut self) -> Result<(), DeviceError> {
        match self.pending.take() {
            Some(Run { at, bytes, to, .. }) => self.slots[self.slot].upload(at, bytes, to),
            None => Ok(()),
        }
    }
}
