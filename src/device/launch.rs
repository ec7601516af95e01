use super::DeviceError;
use bytemuck::Pod;
use cudarc::driver::{CudaEvent, CudaStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One kernel launch as data: what an op's CUDA face makes from shapes and pointers.
///
/// Every kernel takes exactly one by-value struct from `kernels/params.h`, so that a launch can be
/// described, printed, captured in a graph, or run by the emulator, all by the same few fields.
#[derive(Clone, Debug)]
pub struct Launch {
    /// File stem under `kernels/`, e.g. `nf4` or `gemm_sm80`.
    pub module: &'static str,
    /// Name of the kernel in that file.
    pub kernel: &'static str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Blocks a cluster, neighbours in x.
    pub cluster: u32,
    /// Whether its blocks find places only when the launch before has ended: see [`Launch::alone`].
    pub alone: bool,
    /// The kernel's parameter struct.
    pub params: Vec<u8>,
    /// Matrices that the copy engine reads or writes, and where in `params` their `TensorMap`s are.
    pub tensor_maps: Vec<(usize, TensorMap)>,
}

/// A row-major bf16 matrix as Hopper's copy engine sees it: boxes of it go to shared memory and back, their lines of
/// 32, 64 or 128 bytes swizzled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Device address of the first element, a multiple of 16.
    pub address: u64,
    /// Rows and columns; a row's bytes are a multiple of 16.
    pub shape: [usize; 2],
    /// Rows and columns of a box: at most 256; and 16, 32 or 64.
    pub block: [usize; 2],
}

impl Launch {
    /// A launch of `kernel` in `kernels/<module>.cu` with its parameter struct.
    pub fn new<P: Pod>(module: &'static str, kernel: &'static str, grid: [u32; 3], threads: u32, params: P) -> Launch {
        let params = bytemuck::bytes_of(&params).to_vec();
        Launch {
            module,
            kernel,
            grid,
            block: [threads, 1, 1],
            shared_bytes: 0,
            cluster: 1,
            alone: false,
            params,
            tensor_maps: vec![],
        }
    }

    /// The same with dynamic shared memory.
    pub fn shared(mut self, bytes: u32) -> Launch {
        self.shared_bytes = bytes;
        self
    }

    /// The same in clusters of so many blocks.
    pub fn cluster(mut self, blocks: u32) -> Launch {
        self.cluster = blocks;
        self
    }

    /// The same, not begun while the launch before still runs, which small ones allow. For launches of fewer blocks than
    /// multiprocessors, all of which read memory as fast as they can: begun early, they crowd where the small one has left room.
    pub fn alone(mut self) -> Launch {
        self.alone = true;
        self
    }

    /// The same with a tensor map at a byte of the parameter struct.
    pub fn tensor_map(mut self, offset: usize, map: TensorMap) -> Launch {
        self.tensor_maps.push((offset, map));
        self
    }
}

/// Launches, copies and fills that were recorded once, with their arguments.
///
/// What they use must still be there when they are replayed.
pub trait Recording: Send {
    /// Runs them all, in order with what is launched before and after, and returns at once.
    fn replay(&self) -> Result<(), DeviceError>;
}

/// A point in the order of an executor's launches, to wait for.
#[derive(Debug)]
pub struct Mark(Option<CudaEvent>);

impl Mark {
    /// Of an executor whose launches have ended when they return.
    pub fn passed() -> Mark {
        Mark(None)
    }

    pub(super) fn at(event: CudaEvent) -> Mark {
        Mark(Some(event))
    }

    /// Waits until everything launched before it has ended.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let Some(event) = &self.0 else { return Ok(()) };
        event.synchronize().map_err(|e| DeviceError::Driver {
            call: "cuEventSynchronize (a kernel before it failed)".into(),
            message: e.to_string(),
        })
    }
}

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What nobody holds.
    pub free: usize,
    /// All of it.
    pub total: usize,
    /// What this executor and those beside it hold.
    pub held: usize,
    /// The most that they held at once.
    pub peak: usize,
}

/// Something that runs CUDA kernels on memory of its own, in the order they are launched.
///
/// Addresses are device addresses. An executor frees nothing while kernels that use it may still run.
pub trait Executor: Send + Sync {
    /// What a user would call it, e.g. `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> &str;
    /// Multiprocessors, for grids of persistent kernels.
    fn multiprocessors(&self) -> u32;
    /// Compute capability, as major * 10 + minor.
    fn capability(&self) -> u32;
    /// Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications per Compute
    /// Capability").
    fn shared_memory(&self) -> usize {
        let kilobytes = match self.capability() {
            80 | 87 => 163,
            90..=110 => 227,
            _ => 99,
        };
        kilobytes << 10
    }
    /// The CUDA stream that everything runs on; None where there is no driver below, as in an emulator.
    fn stream(&self) -> Option<&Arc<CudaStream>> {
        None
    }
    /// Another executor on the same memory, which orders nothing with this one.
    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError>;
    /// How much memory there is and is held; None where nobody counts.
    fn memory(&self) -> Option<Memory> {
        None
    }
    /// Counts the most that is held from now on.
    fn forget_peak(&self) {}
    /// Memory of `bytes` bytes, aligned to 256, contents undefined.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;
    /// Gives memory back.
    fn free(&self, address: u64);
    /// Copies host bytes to the device.
    fn upload(&self, data: &[u8], to: u64) -> Result<(), DeviceError>;
    /// Copies device bytes to the host, after all that was launched before.
    fn download(&self, from: u64, data: &mut [u8]) -> Result<(), DeviceError>;
    /// Copies within the device.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError>;
    /// Sets bytes.
    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError>;
    /// Launches a kernel.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;
    /// Zeroed host memory that the device reads and writes too: its address on the host, and on the device.
    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError>;
    /// Gives it back, by its address on the host. Nothing that was launched may be using it still.
    fn free_pinned(&self, host: u64);
    /// Copies from pinned host memory to the device, in order with what is launched, and returns at once.
    fn upload_pinned(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError>;
    /// A mark behind everything launched so far.
    fn mark(&self) -> Result<Mark, DeviceError>;
    /// Whether everything launched so far has ended; an error where some of it failed. Returns at once.
    fn finished(&self) -> Result<bool, DeviceError>;
    /// Waits for everything launched so far.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// Records what `work` launches, copies and fills on the device, and runs none of it. `work` must do nothing else
    /// there: neither allocate nor wait, nor launch a kernel for the first time.
    ///
    /// None, and `work` is not called, where there is no recording; that is this default.
    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Option<Box<dyn Recording>>, DeviceError> {
        let _ = work;
        Ok(None)
    }
    /// Milliseconds from the start to the end of what `work` launches. This default times on the host.
    fn time(&self, work: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
        self.synchronize()?;
        let start = Instant::now();
        work()?;
        self.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

/// A shared handle to an [`Executor`].
///
/// Ops of one handle share a [workspace](Gpu::workspace), so they are called from one thread at a time; threads that
/// work at once have a handle each, on a stream each ([`Gpu::on_stream`], [`cuda::Driver::beside`](super::cuda::Driver::beside)).
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    executor: Box<dyn Executor>,
    workspace: Mutex<Workspace>,
}

/// Memory that one op's launches use among themselves.
#[derive(Default)]
struct Workspace {
    address: u64,
    bytes: usize,
}

impl Gpu {
    /// Wraps an executor.
    pub fn new(executor: impl Executor + 'static) -> Gpu {
        Gpu(Arc::new(Shared { executor: Box::new(executor), workspace: Mutex::default() }))
    }

    /// Another handle on the same memory, for another thread: its launches are in order among themselves alone, and its
    /// workspace is its own.
    pub fn beside(&self) -> Result<Gpu, DeviceError> {
        Ok(Gpu(Arc::new(Shared { executor: self.0.executor.beside()?, workspace: Mutex::default() })))
    }

    /// Makes the workspace at least so large, so that no later op has to. Each op's documentation says what it needs.
    pub fn reserve(&self, bytes: usize) -> Result<(), DeviceError> {
        self.workspace(bytes).map(|_| ())
    }

    /// Bytes of the workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.0.workspace.lock().unwrap_or_else(|e| e.into_inner()).bytes
    }

    /// Scratch memory for the launches of one op, from its first to its last: kernels run in order, so the next op
    /// may have the same memory. It grows to the largest that was asked for ([`Gpu::reserve`]); growing waits for the
    /// device.
    pub fn workspace(&self, bytes: usize) -> Result<u64, DeviceError> {
        let mut workspace = self.0.workspace.lock().unwrap_or_else(|e| e.into_inner());
        if workspace.bytes < bytes {
            self.synchronize()?;
            self.0.free_workspace(&mut workspace);
            *workspace = Workspace { address: self.allocate(bytes)?, bytes };
        }
        Ok(workspace.address)
    }
}

impl Shared {
    fn free_workspace(&self, workspace: &mut Workspace) {
        if workspace.bytes > 0 {
            self.executor.free(workspace.address);
            *workspace = Workspace::default();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut workspace = std::mem::take(self.workspace.get_mut().unwrap_or_else(|e| e.into_inner()));
        self.free_workspace(&mut workspace);
    }
}

impl std::ops::Deref for Gpu {
    type Target = dyn Executor;
    fn deref(&self) -> &Self::Target {
        &*self.0.executor
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
