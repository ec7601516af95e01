//! The CUDA driver as an [`Executor`]: a stream, its own or a caller's, and the kernels built into this binary.

use super::attributes;
use super::cards::{HOPPER, device_count, driver_version_number};
use super::graph::Builder;
use super::host_pages::HostPages;
use super::kernels::{Kernels, has_kernels};
use super::recent::{self, Recent};
use super::support;
use crate::device::error::failed;
use crate::device::{DeviceError, Executor, Gpu, Launch, Mark, Memory, Recording};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

/// Where KIUNGO_IN_ORDER is set kernels are launched one by one, and start one after another, and copies on the device are waited for:
/// compute-sanitizer has lost track of kernels in a graph or that start earlier.
static IN_ORDER: LazyLock<bool> = LazyLock::new(|| std::env::var_os("KIUNGO_IN_ORDER").is_some());
/// Where it is `one-stream` all handles share a stream, and whatever is begun there is waited for: initcheck has lost track of what
/// other streams write. (racecheck loses track of launches where it is.)
static ONE_STREAM: LazyLock<bool> =
    LazyLock::new(|| std::env::var("KIUNGO_IN_ORDER").is_ok_and(|order| order == "one-stream"));

/// A stream of a CUDA device, and the kernels that are loaded in its context.
pub struct Driver {
    name: String,
    multiprocessors: u32,
    capability: u32,
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    held: Arc<Mutex<Held>>,
    /// Pinned host memory, by address.
    pinned: Mutex<HashMap<u64, HostPages>>,
    /// What is being recorded, instead of being run.
    recording: Mutex<Option<Builder>>,
    /// On this stream.
    recent: Recent,
    /// Memory comes from the device's pool.
    pooled: bool,
}

/// What is allocated, by address, and its bytes.
#[derive(Default)]
struct Held {
    blocks: HashMap<u64, usize>,
    bytes: usize,
    peak: usize,
}

impl Held {
    fn add(&mut self, address: u64, bytes: usize) {
        self.blocks.insert(address, bytes);
        self.bytes += bytes;
        self.peak = self.peak.max(self.bytes);
    }

    fn remove(&mut self, address: u64) {
        self.bytes -= self.blocks.remove(&address).unwrap_or(0);
    }
}

impl Driver {
    /// Opens device `ordinal` with a stream of its own, or says why it cannot be used.
    pub fn new(ordinal: usize) -> Result<Driver, DeviceError> {
        if !has_kernels() {
            return Err(DeviceError::NoKernels);
        }
        let count = device_count()?;
        if ordinal >= count {
            return Err(DeviceError::NoDevice(format!("device {ordinal} was asked for, and there are {count}")));
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed("cuCtxCreate", e))?;
        Driver::on(context.new_stream().map_err(|e| failed("cuStreamCreate", e))?)
    }

    /// Runs kernels on a stream of the caller's, in order with the caller's own work there. Kernels are loaded into
    /// the stream's context when they are first launched.
    pub fn on(stream: Arc<CudaStream>) -> Result<Driver, DeviceError> {
        if !has_kernels() {
            return Err(DeviceError::NoKernels);
        }
        let driver = driver_version_number()?;
        let context = stream.context();
        let name = context.name().map_err(|e| failed("cuDeviceGetName", e))?;
        let (major, minor) = context.compute_capability().map_err(|e| failed("cuDeviceGetAttribute", e))?;
        support::check(driver, &name, (major, minor))?;
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|e| failed("cuDeviceGetAttribute", e))? as u32;
        let kernels = Arc::new(Kernels::new(context.clone()));
        let capability = (major * 10 + minor) as u32;
        Ok(Driver {
            name,
            multiprocessors,
            capability,
            stream,
            kernels,
            held: Arc::default(),
            pinned: Mutex::default(),
            recording: Mutex::default(),
            recent: Recent::default(),
            pooled: false,
        })
    }

    /// The same with memory of the device's pool, which keeps what is given back: threads that each have a stream do not
    /// wait for each other's work whenever one of them frees something. Who waits for the device leaves the core to others.
    pub fn pooled(mut self) -> Result<Driver, DeviceError> {
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut all = u64::MAX;
        // SAFETY: the device is the context's, and the attribute is a u64.
        let set = unsafe {
            result::device::get_default_mem_pool(self.stream.context().cu_device())
                .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast()))
        };
        set.map_err(|e| failed("cuMemPoolSetAttribute", e))?;
        self.stream.context().set_blocking_synchronize().map_err(|e| failed("cuCtxSetFlags", e))?;
        self.pooled = true;
        Ok(self)
    }

    /// Another stream of the same context, with the kernels that this one has loaded or will load.
    pub fn beside(&self, stream: Arc<CudaStream>) -> Result<Driver, DeviceError> {
        if !Arc::ptr_eq(stream.context(), self.stream.context()) {
            return Err(DeviceError::OtherContext { what: "a stream" });
        }
        let Driver { multiprocessors, capability, pooled, .. } = *self;
        let (name, kernels, held) = (self.name.clone(), self.kernels.clone(), self.held.clone());
        let (pinned, recording, recent) = (Mutex::default(), Mutex::default(), Recent::default());
        Ok(Driver { name, multiprocessors, capability, stream, kernels, held, pinned, recording, recent, pooled })
    }

    fn recording(&self) -> MutexGuard<'_, Option<Builder>> {
        self.recording.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn pinned(&self) -> MutexGuard<'_, HashMap<u64, HostPages>> {
        self.pinned.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether a kernel may start before the one before it has ended: those compiled for this device wait by themselves.
    fn overlaps(&self) -> bool {
        self.capability == HOPPER && !*IN_ORDER
    }

    /// Waits for what was just begun, if that is asked for.
    fn settle(&self) -> Result<(), DeviceError> {
        if *ONE_STREAM { self.synchronize() } else { Ok(()) }
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.stream.context().bind_to_thread().map_err(|e| failed("cuCtxSetCurrent", e))
    }
}

impl Gpu {
    /// Runs ops on a stream of the caller's, in order with the caller's own work there. Memory that the caller has is
    /// used in place: [`Tensor::adopt`](crate::device::Tensor::adopt) and its neighbours.
    pub fn on_stream(stream: Arc<CudaStream>) -> Result<Gpu, DeviceError> {
        Ok(Gpu::new(Driver::on(stream)?))
    }
}

impl Executor for Driver {
    fn name(&self) -> &str {
        &self.name
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn capability(&self) -> u32 {
        self.capability
    }

    fn stream(&self) -> Option<&Arc<CudaStream>> {
        Some(&self.stream)
    }

    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError> {
        let stream = match *ONE_STREAM {
            true => self.stream.clone(),
            false => self.stream.context().new_stream().map_err(|e| failed("cuStreamCreate", e))?,
        };
        Ok(Box::new(Driver::beside(self, stream)?))
    }

    fn memory(&self) -> Option<Memory> {
        self.bind().ok()?;
        let (free, total) = result::mem_get_info().ok()?;
        let held = self.held();
        Some(Memory { free, total, held: held.bytes, peak: held.peak })
    }

    fn forget_peak(&self) {
        let mut held = self.held();
        held.peak = held.bytes;
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.bind()?;
        // SAFETY: the context is current, and the stream is of it.
        let allocated = unsafe {
            if self.pooled { result::malloc_async(self.stream.cu_stream(), bytes) } else { result::malloc_sync(bytes) }
        };
        match allocated {
            Ok(p) => {
                self.held().add(p, bytes);
                if self.pooled {
                    // Other streams may use it at once.
                    self.synchronize()?;
                }
                Ok(p)
            }
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                Err(DeviceError::OutOfMemory { asked: bytes, free, total, held: self.held().bytes })
            }
            Err(e) => Err(failed(format!("cuMemAlloc of {bytes} bytes"), e)),
        }
    }

    fn free(&self, address: u64) {
        if self.bind().is_ok() {
            self.held().remove(address);
            // An error here has been reported by an earlier call.
            if self.pooled {
                // The pool has it again behind what this stream does with it.
                // SAFETY: the address came from `allocate` and is freed once, by its owner's drop.
                let _ = unsafe { result::free_async(address, self.stream.cu_stream()) };
            } else {
                // cuMemFree waits for the work that uses it.
                // SAFETY: as above.
                let _ = unsafe { result::free_sync(address) };
            }
        }
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller owns `to..to + len`. Pageable memory: the call returns when it has been read.
        unsafe { result::memcpy_htod_async(to, data, self.stream.cu_stream()) }
            .map_err(|e| failed(format!("copy of {} bytes to the device", data.len()), e))?;
        self.synchronize()
    }

    fn download(&self, from: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let n = data.len();
        // SAFETY: the caller owns `from..from + len`; synchronised before `data` is read.
        unsafe { result::memcpy_dtoh_async(data, from, self.stream.cu_stream()) }
            .map_err(|e| failed(format!("copy of {n} bytes from the device"), e))?;
        self.synchronize()
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        if let Some(builder) = &mut *self.recording() {
            return builder.copy(from, to, bytes);
        }
        // SAFETY: the caller owns both ranges.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed(format!("copy of {bytes} bytes on the device"), e))?;
        // Or the tool may look at where it came from when that has been freed.
        if *IN_ORDER { self.synchronize() } else { Ok(()) }
    }

    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        if let Some(builder) = &mut *self.recording() {
            return builder.fill(at, byte, bytes);
        }
        // SAFETY: the caller owns the range.
        unsafe { result::memset_d8_async(at, byte, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed(format!("fill of {bytes} bytes"), e))?;
        self.settle()
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.bind()?;
        let function = self.kernels.function(launch)?;
        self.recent.note(launch);
        let [gx, gy, gz] = launch.grid;
        let [bx, by, bz] = launch.block;
        // The driver copies the struct before the call returns; it wants it aligned like the C struct.
        let mut params = vec![0u128; launch.params.len().div_ceil(16)];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut params);
        bytes[..launch.params.len()].copy_from_slice(&launch.params);
        for (offset, map) in &launch.tensor_maps {
            let encoded = self.kernels.encode(map)?;
            bytes[*offset..*offset + size_of_val(&encoded)].copy_from_slice(bytemuck::bytes_of(&encoded));
        }
        let argument = params.as_mut_ptr() as *mut c_void;
        if let Some(builder) = &mut *self.recording() {
            return builder.kernel(function.handle, launch, argument);
        }
        let mut arguments = [argument];
        let mut attributes = [attributes::cluster(launch.cluster), attributes::overlap()];
        let attributes =
            &mut attributes[usize::from(launch.cluster <= 1)..1 + usize::from(self.overlaps() && !launch.alone)];
        let config = sys::CUlaunchConfig {
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the one argument is the struct the kernel takes (made by bindgen from the same header), and
        // the op that made the launch has checked every shape behind its addresses.
        unsafe { sys::cuLaunchKernelEx(&config, function.handle, arguments.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(|e| failed(recent::in_words(launch), e))?;
        self.settle()
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError> {
        self.bind()?;
        let (pages, host) = HostPages::new(bytes)?;
        self.pinned().insert(host, pages);
        let mut device = 0;
        // SAFETY: the memory is mapped into the context's addresses, and `pinned` keeps it.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut device, host as *mut c_void, 0) }
            .result()
            .map_err(|e| failed("cuMemHostGetDevicePointer", e))?;
        Ok([host, device])
    }

    fn free_pinned(&self, host: u64) {
        let pages = self.pinned().remove(&host);
        if let (Some(pages), Ok(())) = (pages, self.bind()) {
            pages.free(host);
        }
    }

    fn upload_pinned(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller owns both ranges, and `from` is pinned: it is read when the stream comes to it.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from as *const c_void, bytes, self.stream.cu_stream()) }
            .result()
            .map_err(|e| failed(format!("copy of {bytes} pinned bytes to the device"), e))?;
        self.settle()
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        let event = self.stream.record_event(None).map_err(|e| failed("cuEventRecord", e))?;
        Ok(Mark::at(event))
    }

    fn finished(&self) -> Result<bool, DeviceError> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(|e| failed(self.recent.suspects("cuStreamQuery"), e)),
        }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(|e| failed(self.recent.suspects("cuStreamSynchronize"), e))
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Option<Box<dyn Recording>>, DeviceError> {
        if *IN_ORDER {
            return Ok(None);
        }
        self.bind()?;
        *self.recording() = Some(Builder::new(&self.stream, self.overlaps())?);
        let done = work();
        let recorded = self.recording().take();
        done?;
        match recorded {
            Some(builder) => Ok(Some(Box::new(builder.finish()?))),
            None => Ok(None),
        }
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
        let record = || {
            let event = self.stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
            event.record(&self.stream)?;
            Ok(event)
        };
        let record = || record().map_err(|e: DriverError| failed("cuEventRecord", e));
        let start = record()?;
        work()?;
        let end = record()?;
        // elapsed_ms waits for both events.
        let milliseconds = start.elapsed_ms(&end).map_err(|e| failed("cuEventElapsedTime (a kernel failed)", e))?;
        Ok(milliseconds.into())
    }
}
