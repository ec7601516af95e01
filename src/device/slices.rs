//! Device memory that a caller holds as slices of cudarc's, used in place as tensors.

use super::tensor::{Allocation, Element, Host, Owner, Storage, elements};
use super::{DType, DeviceError, Gpu, Tensor};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, DevicePtrMut, SyncOnDrop};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Kernels read up to 16 bytes at a time. Whole slices always begin at such an address.
const ALIGNMENT: u64 = 16;

/// A slice of any element type that a tensor owns.
pub(super) trait Slice: Any + Send + Sync {
    /// Orders the GPU's stream behind uses of the slice on other streams, and later uses there behind this moment.
    fn used_on(&mut self, gpu: &Gpu);
}

impl<T: Element> Slice for CudaSlice<T> {
    fn used_on(&mut self, gpu: &Gpu) {
        if let Some(stream) = gpu.stream() {
            // It waits for the slice's events, and records one when its guard is dropped.
            let _ = self.device_ptr_mut(stream);
        }
    }
}

/// A tensor to read, over memory that stays the caller's for `'a`.
#[derive(Debug)]
pub struct Borrowed<'a> {
    tensor: Tensor,
    /// Records the use when it is dropped.
    _use: SyncOnDrop<'a>,
}

impl Deref for Borrowed<'_> {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

/// A tensor to write, over a slice that is the caller's again when this is dropped.
///
/// Meanwhile the slice is empty: the tensor owns the memory, so that it cannot outlive it whatever becomes of this guard. One
/// that is never dropped (`mem::forget`), or whose tensor was exchanged for another, leaves the slice empty.
#[derive(Debug)]
pub struct BorrowedMut<'a, T: Element> {
    tensor: Tensor,
    home: &'a mut CudaSlice<T>,
}

impl<T: Element> Deref for BorrowedMut<'_, T> {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl<T: Element> DerefMut for BorrowedMut<'_, T> {
    fn deref_mut(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
}

impl<T: Element> Drop for BorrowedMut<'_, T> {
    fn drop(&mut self) {
        if let Ok(slice) = std::mem::replace(&mut self.tensor, Tensor::nothing()).into_slice() {
            // The empty slice has nothing to free.
            std::mem::replace(self.home, slice).leak();
        }
    }
}

impl Tensor {
    /// Takes a slice over, which becomes a tensor of `shape` without copying; [`Tensor::into_slice`] gives it back.
    ///
    /// An error, and the slice is freed, where its length is another than the shape's, or where it belongs to another
    /// context than the GPU's stream.
    pub fn adopt<T: Element>(gpu: &Gpu, mut slice: CudaSlice<T>, shape: &[usize]) -> Result<Tensor, DeviceError> {
        check_slice::<T>(gpu, slice.context(), slice.len(), shape)?;
        let address = slice.device_ptr_mut(stream_of(gpu)?).0;
        Ok(Tensor::at(Allocation { gpu: gpu.clone(), address, owner: Owner::Slice(Box::new(slice)) }, T::DTYPE, shape))
    }

    /// Gives back the slice that [`Tensor::adopt`] took, whole; an error for any other tensor, which is dropped.
    pub fn into_slice<T: Element>(self) -> Result<CudaSlice<T>, DeviceError> {
        let missing = || DeviceError::NoSlice(T::DTYPE);
        let Storage::Gpu(mut allocation) = self.storage else { return Err(missing()) };
        match std::mem::replace(&mut allocation.owner, Owner::Other) {
            Owner::Slice(mut slice) => {
                slice.used_on(&allocation.gpu);
                let slice: Box<dyn Any> = slice;
                slice.downcast().map(|slice| *slice).map_err(|_| missing())
            }
            owner => {
                allocation.owner = owner;
                Err(missing())
            }
        }
    }

    /// Reads a slice in place, or a part of one (`slice.as_view()`, `slice.slice(range)`), which must begin at a multiple of
    /// 16 bytes.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use cudarc::driver::CudaContext;
    /// use kiungo::device::{Gpu, Tensor};
    ///
    /// let stream = CudaContext::new(0)?.new_stream()?;
    /// let mine = stream.alloc_zeros::<f32>(6)?;
    /// let gpu = Gpu::on_stream(stream)?;
    /// let x = Tensor::borrow(&gpu, mine.as_view(), &[2, 3])?;
    /// assert_eq!(x.shape(), [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn borrow<'a, T: Element>(
        gpu: &'a Gpu,
        view: CudaView<'a, T>,
        shape: &[usize],
    ) -> Result<Borrowed<'a>, DeviceError> {
        use cudarc::driver::DeviceSlice;
        check_slice::<T>(gpu, DeviceSlice::stream(&view).context(), view.len(), shape)?;
        let (address, sync) = view.view_ptr(stream_of(gpu)?);
        // SAFETY: the view holds as much as the shape needs. The guard borrows the memory for as long as the tensor is reachable through it, and lends it only
        // to be read; the tensor cannot be moved out or cloned.
        let tensor = unsafe { Tensor::from_raw(gpu, T::DTYPE, address, shape) }?;
        Ok(Borrowed { tensor, _use: sync })
    }

    /// Writes a slice in place. It is the caller's again when the guard is dropped, and empty until then.
    pub fn borrow_mut<'a, T: Element>(
        gpu: &Gpu,
        slice: &'a mut CudaSlice<T>,
        shape: &[usize],
    ) -> Result<BorrowedMut<'a, T>, DeviceError> {
        check_slice::<T>(gpu, slice.context(), slice.len(), shape)?;
        // SAFETY: no element of an empty slice is ever accessed, and it is leaked, not freed, when the guard is dropped.
        let empty = unsafe { slice.stream().clone().upgrade_device_ptr(0, 0) };
        let tensor = Tensor::adopt(gpu, std::mem::replace(slice, empty), shape)?;
        Ok(BorrowedMut { tensor, home: slice })
    }

    /// A tensor over memory that someone else owns, at an address that is a multiple of 16.
    ///
    /// # Safety
    ///
    /// From `address` on there must be memory for `shape`, which kernels on the GPU's stream can access; it must stay
    /// until the tensor is dropped and all work launched before has ended; and whatever else uses it must be
    /// ordered with that stream.
    pub unsafe fn from_raw(gpu: &Gpu, dtype: DType, address: u64, shape: &[usize]) -> Result<Tensor, DeviceError> {
        elements(dtype, shape)?;
        if !address.is_multiple_of(ALIGNMENT) {
            return Err(DeviceError::Alignment { address, needed: ALIGNMENT });
        }
        Ok(Tensor::borrowed(gpu, address, dtype, shape))
    }
}

impl Tensor {
    /// Without elements or memory.
    fn nothing() -> Tensor {
        Tensor { shape: vec![0], dtype: DType::U8, capacity: 0, storage: Storage::Host(Host::U8(Vec::new())) }
    }
}

fn stream_of(gpu: &Gpu) -> Result<&Arc<CudaStream>, DeviceError> {
    gpu.stream().ok_or_else(|| DeviceError::NoDevice(format!("{} runs no CUDA stream", gpu.name())))
}

fn check_slice<T: Element>(
    gpu: &Gpu,
    context: &Arc<CudaContext>,
    found: usize,
    shape: &[usize],
) -> Result<(), DeviceError> {
    // cudarc orders streams only where they share one handle of the context.
    if !Arc::ptr_eq(context, stream_of(gpu)?.context()) {
        return Err(DeviceError::OtherContext { what: "a slice" });
    }
    let expected = elements(T::DTYPE, shape)?;
    if found != expected {
        return Err(DeviceError::Length { what: "tensor from a slice", expected, found });
    }
    Ok(())
}
