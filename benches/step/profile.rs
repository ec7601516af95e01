//! Where a step's time goes: an executor that records an event behind each launch.

use kiungo::device::cuda::Driver;
use kiungo::device::{Device, DeviceError, Executor, Launch, Mark};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaEvent, CudaStream, sys::CUevent_flags};

/// Kernels that keep the GPU busy while the launches that are timed are queued: bytes that are filled, and how often.
const BUSY_BYTES: usize = 1 << 28;
const BUSY: usize = 300;
/// Launches that are listed one by one, and kinds of launches that are listed.
const LISTED: usize = 400;
const KINDS: usize = 40;

/// The driver, with its launches recorded while somebody asks for it.
pub struct Profiler {
    driver: Driver,
    spans: Spans,
}

/// What was launched; None while nobody asks.
#[derive(Clone, Default)]
pub struct Spans(Arc<Mutex<Option<Vec<Span>>>>);

/// A launch, and an event behind it.
struct Span {
    label: String,
    end: CudaEvent,
}

impl Profiler {
    pub fn new(driver: Driver) -> anyhow::Result<(Profiler, Spans)> {
        let spans = Spans::default();
        Ok((Profiler { driver, spans: spans.clone() }, spans))
    }

    fn mark(&self, label: impl FnOnce() -> String) -> Result<(), DeviceError> {
        let mut spans = self.spans.0.lock().unwrap_or_else(|e| e.into_inner());
        let (Some(spans), Some(stream)) = (&mut *spans, self.driver.stream()) else { return Ok(()) };
        let end = event(stream).map_err(|e| device_error(&e.into()))?;
        spans.push(Span { label: label(), end });
        Ok(())
    }
}

fn event(stream: &Arc<CudaStream>) -> Result<CudaEvent, cudarc::driver::DriverError> {
    let event = stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    event.record(stream)?;
    Ok(event)
}

impl Spans {
    /// Runs `work` behind something long, and lists its launches with their times.
    pub fn of(&self, device: &Device, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<String> {
        let Device::Cuda(gpu) = device else { anyhow::bail!("{device} is no GPU") };
        let busy = gpu.allocate(BUSY_BYTES)?;
        for _ in 0..BUSY {
            gpu.fill(busy, 0, BUSY_BYTES)?;
        }
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(vec![]);
        // The first span begins behind this.
        gpu.fill(busy, 0, 1)?;
        let done = work();
        let spans = self.0.lock().unwrap_or_else(|e| e.into_inner()).take().unwrap_or_default();
        gpu.synchronize()?;
        gpu.free(busy);
        done?;
        table(&spans)
    }
}

fn table(spans: &[Span]) -> anyhow::Result<String> {
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let (mut text, mut total) = (String::new(), 0.0);
    for (i, pair) in spans.windows(2).enumerate() {
        let us = f64::from(pair[0].end.elapsed_ms(&pair[1].end)?) * 1e3;
        let kind = kinds.entry(&pair[1].label).or_default();
        *kind = (kind.0 + 1, kind.1 + us);
        total += us;
        if i < LISTED && spans.len() <= LISTED {
            writeln!(text, "{i:>5} {us:>9.1} us  {}", pair[1].label)?;
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    writeln!(text, "{} launches, {:.3} ms; the kinds of most time:", spans.len().saturating_sub(1), total / 1e3)?;
    for (label, (count, us)) in kinds.into_iter().take(KINDS) {
        writeln!(text, "{us:>9.1} us {:>5.1} % {count:>5} x  {label}", 100.0 * us / total)?;
    }
    Ok(text)
}

pub fn device_error(e: &anyhow::Error) -> DeviceError {
    DeviceError::Driver { call: "benchmark".into(), message: format!("{e:#}") }
}

impl Executor for Profiler {
    fn name(&self) -> &str {
        self.driver.name()
    }
    fn multiprocessors(&self) -> u32 {
        self.driver.multiprocessors()
    }
    fn capability(&self) -> u32 {
        self.driver.capability()
    }
    fn stream(&self) -> Option<&Arc<CudaStream>> {
        self.driver.stream()
    }
    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError> {
        Executor::beside(&self.driver)
    }
    fn mark(&self) -> Result<Mark, DeviceError> {
        Executor::mark(&self.driver)
    }
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.driver.allocate(bytes)
    }
    fn free(&self, address: u64) {
        self.driver.free(address)
    }
    fn upload(&self, data: &[u8], to: u64) -> Result<(), DeviceError> {
        self.driver.upload(data, to)
    }
    fn download(&self, from: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.driver.download(from, data)
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.driver.copy(from, to, bytes)?;
        self.mark(|| format!("copy of {bytes} bytes"))
    }
    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        self.driver.fill(at, byte, bytes)?;
        self.mark(|| format!("fill of {bytes} bytes"))
    }
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.driver.launch(launch)?;
        let [x, y, z] = launch.grid;
        self.mark(|| format!("{} {x}x{y}x{z}", launch.kernel))
    }
    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError> {
        self.driver.allocate_pinned(bytes)
    }
    fn free_pinned(&self, host: u64) {
        self.driver.free_pinned(host)
    }
    fn upload_pinned(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.driver.upload_pinned(from, to, bytes)?;
        self.mark(|| format!("upload of {bytes} bytes"))
    }
    fn finished(&self) -> Result<bool, DeviceError> {
        self.driver.finished()
    }
    fn synchronize(&self) -> Result<(), DeviceError> {
        self.driver.synchronize()
    }
}
