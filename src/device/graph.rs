//! CUDA graphs: what a stream was told, recorded once and run again by one call.

use super::cuda::failed;
use super::{DeviceError, Recording};
use cudarc::driver::{CudaStream, sys};
use std::ptr::null_mut;
use std::sync::Arc;

/// An executable graph, for the stream that it was recorded on.
pub(super) struct Graph {
    executable: sys::CUgraphExec,
    stream: Arc<CudaStream>,
}
// SAFETY: a CUgraphExec is a handle that any thread may use, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` does on `stream`, whose context is current.
    pub(super) fn record(
        stream: &Arc<CudaStream>,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and is not recording.
        unsafe { sys::cuStreamBeginCapture_v2(stream.cu_stream(), mode) }
            .result()
            .map_err(|e| failed("cuStreamBeginCapture", e))?;
        let done = work();
        let mut recorded = null_mut();
        // SAFETY: the stream has been recording since the call above; a graph that failed is null.
        let ended = unsafe { sys::cuStreamEndCapture(stream.cu_stream(), &mut recorded) }.result();
        let recorded = Recorded(recorded);
        done?;
        ended.map_err(|e| failed("cuStreamEndCapture", e))?;
        let mut executable = null_mut();
        // SAFETY: the graph is whole.
        unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, recorded.0, 0) }
            .result()
            .map_err(|e| failed("cuGraphInstantiate", e))?;
        Ok(Graph { executable, stream: stream.clone() })
    }
}

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
            // SAFETY: made by `record`, destroyed once; the driver keeps it while it runs.
            let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}

/// A graph before it is made executable.
struct Recorded(sys::CUgraph);

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the graph came from cuStreamEndCapture and is destroyed once.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}
