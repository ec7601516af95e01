//! CUDA graphs: what a stream would be told, put together node by node and run by one call.
//!
//! Not by capturing a stream, which forbids other threads what waits for the whole context, as making a stream may.

use super::attributes::cluster_value;
use crate::device::error::failed;
use crate::device::{DeviceError, Launch, Recording};
use cudarc::driver::{CudaStream, sys};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// A graph whose nodes run one after another, being put together.
pub(super) struct Builder {
    graph: sys::CUgraph,
    last: Option<Node>,
    stream: Arc<CudaStream>,
    /// Whether kernels wait for the kernel before them by themselves, and so may start earlier.
    overlaps: bool,
}

#[derive(Clone, Copy)]
struct Node {
    handle: sys::CUgraphNode,
    is_kernel: bool,
}
// SAFETY: graphs and nodes are handles that any thread may use, one at a time.
unsafe impl Send for Builder {}

impl Builder {
    /// An empty one, for a stream whose context is current.
    pub(super) fn new(stream: &Arc<CudaStream>, overlaps: bool) -> Result<Builder, DeviceError> {
        let mut graph = null_mut();
        // SAFETY: writes one handle.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result().map_err(|e| failed("cuGraphCreate", e))?;
        Ok(Builder { graph, last: None, stream: stream.clone(), overlaps })
    }

    /// Adds what `add` makes of the graph, behind the last node.
    fn node(
        &mut self,
        call: &str,
        is_kernel: bool,
        overlaps: bool,
        add: impl FnOnce(*mut sys::CUgraphNode, sys::CUgraph) -> sys::CUresult,
    ) -> Result<sys::CUgraphNode, DeviceError> {
        let mut handle = null_mut();
        add(&mut handle, self.graph).result().map_err(|e| failed(call, e))?;
        if let Some(last) = self.last {
            let edge = match self.overlaps && overlaps && last.is_kernel {
                true => programmatic(),
                false => sys::CUgraphEdgeData { from_port: 0, to_port: 0, type_: 0, reserved: [0; 5] },
            };
            // SAFETY: both nodes are of this graph; the arrays are of one element, as the count says.
            unsafe { sys::cuGraphAddDependencies_v2(self.graph, &last.handle, &handle, &edge, 1) }
                .result()
                .map_err(|e| failed("cuGraphAddDependencies", e))?;
        }
        self.last = Some(Node { handle, is_kernel });
        Ok(handle)
    }

    /// Adds a launch; `argument` is the kernel's struct.
    pub(super) fn kernel(
        &mut self,
        function: sys::CUfunction,
        launch: &Launch,
        argument: *mut c_void,
    ) -> Result<(), DeviceError> {
        let mut arguments = [argument];
        let params = sys::CUDA_KERNEL_NODE_PARAMS {
            func: function,
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            kernelParams: arguments.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: null_mut(),
        };
        // SAFETY: the handles are alive; the driver copies the argument, which is the struct that the kernel takes.
        let node = self.node(launch.kernel, true, !launch.alone, |node, graph| unsafe {
            sys::cuGraphAddKernelNode_v2(node, graph, null(), 0, &params)
        })?;
        if launch.cluster > 1 {
            let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            // SAFETY: the node was made above, of a kernel.
            unsafe { sys::cuGraphKernelNodeSetAttribute(node, id, &cluster_value(launch.cluster)) }
                .result()
                .map_err(|e| failed(format!("{} in clusters of {}", launch.kernel, launch.cluster), e))?;
        }
        Ok(())
    }

    /// Adds a fill.
    pub(super) fn fill(&mut self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        let params = sys::CUDA_MEMSET_NODE_PARAMS {
            dst: at,
            pitch: bytes,
            value: byte.into(),
            elementSize: 1,
            width: bytes,
            height: 1,
        };
        let context = self.stream.context().cu_ctx();
        // SAFETY: the caller owns the range.
        self.node("a fill in a graph", false, false, |node, graph| unsafe {
            sys::cuGraphAddMemsetNode(node, graph, null(), 0, &params, context)
        })
        .map(|_| ())
    }

    /// Adds a copy within the device.
    pub(super) fn copy(&mut self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let params = sys::CUDA_MEMCPY3D {
            srcXInBytes: 0,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: device,
            srcHost: null(),
            srcDevice: from,
            srcArray: null_mut(),
            reserved0: null_mut(),
            srcPitch: bytes,
            srcHeight: 1,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: device,
            dstHost: null_mut(),
            dstDevice: to,
            dstArray: null_mut(),
            reserved1: null_mut(),
            dstPitch: bytes,
            dstHeight: 1,
            WidthInBytes: bytes,
            Height: 1,
            Depth: 1,
        };
        let context = self.stream.context().cu_ctx();
        // SAFETY: the caller owns both ranges.
        self.node("a copy in a graph", false, false, |node, graph| unsafe {
            sys::cuGraphAddMemcpyNode(node, graph, null(), 0, &params, context)
        })
        .map(|_| ())
    }

    /// Makes it executable.
    pub(super) fn finish(self) -> Result<Graph, DeviceError> {
        let mut executable = null_mut();
        // SAFETY: the graph is whole.
        unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, self.graph, 0) }
            .result()
            .map_err(|e| failed("cuGraphInstantiate", e))?;
        Ok(Graph { executable, stream: self.stream.clone() })
    }
}

/// An edge on which a kernel may start as soon as all blocks of the one before let it (`wait_for_launch` in `kernel.cuh`).
fn programmatic() -> sys::CUgraphEdgeData {
    sys::CUgraphEdgeData {
        from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
        to_port: 0,
        type_: sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
        reserved: [0; 5],
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { sys::cuGraphDestroy(self.graph) };
    }
}

/// An executable graph.
pub(super) struct Graph {
    executable: sys::CUgraphExec,
    stream: Arc<CudaStream>,
}
// SAFETY: a CUgraphExec is a handle that any thread may use, one at a time.
unsafe impl Send for Graph {}

impl Recording for Graph {
    fn replay(&self) -> Result<(), DeviceError> {
        self.stream.context().bind_to_thread().map_err(|e| failed("cuCtxSetCurrent", e))?;
        // SAFETY: both handles are alive; what the graph uses is, by the contract of `Recording`.
        unsafe { sys::cuGraphLaunch(self.executable, self.stream.cu_stream()) }
            .result()
            .map_err(|e| failed("cuGraphLaunch", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: made by `finish`, destroyed once; the driver keeps it while it runs.
            let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}
