//! An executor that counts what is asked of it.

use kiungo::device::{DeviceError, Executor, Gpu, Launch, Mark, Recording};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Another executor, with its calls counted.
pub struct Counting {
    inner: Box<dyn Executor>,
    calls: Calls,
    /// Allocations that succeed; the next one finds the memory full.
    room: usize,
    records: bool,
}

/// How often each function of an executor was called.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<&'static str, usize>>>, Arc<AtomicBool>);

impl Calls {
    pub fn of(&self, function: &str) -> usize {
        self.0.lock().unwrap().get(function).copied().unwrap_or(0)
    }

    /// From now on no launch finds the memory that it needs.
    pub fn fail_launches(&self) {
        self.1.store(true, Ordering::Relaxed);
    }

    /// Forgets all calls so far, and returns them.
    pub fn take(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn count(&self, function: &'static str) {
        *self.0.lock().unwrap().entry(function).or_default() += 1;
    }
}

impl Counting {
    /// A GPU over `inner`, and its calls.
    pub fn gpu(inner: Box<dyn Executor>) -> (Gpu, Calls) {
        Counting::with_room(inner, usize::MAX)
    }

    /// The same with room for so many allocations: for more it is out of memory, with [`Counting::FREE`] bytes of
    /// [`Counting::TOTAL`] left.
    pub fn with_room(inner: Box<dyn Executor>, room: usize) -> (Gpu, Calls) {
        let calls = Calls::default();
        (Gpu::new(Counting { inner, calls: calls.clone(), room, records: true }), calls)
    }

    /// The same where nothing can be recorded.
    pub fn without_recording(inner: Box<dyn Executor>) -> (Gpu, Calls) {
        let calls = Calls::default();
        (Gpu::new(Counting { inner, calls: calls.clone(), room: usize::MAX, records: false }), calls)
    }

    pub const FREE: usize = 12;
    pub const TOTAL: usize = 3456;
    pub const HELD: usize = 3000;

    fn counted(&self, function: &'static str) -> &dyn Executor {
        self.calls.count(function);
        &*self.inner
    }
}

impl Executor for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn multiprocessors(&self) -> u32 {
        self.inner.multiprocessors()
    }
    fn capability(&self) -> u32 {
        self.inner.capability()
    }
    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError> {
        let inner = self.counted("beside").beside()?;
        Ok(Box::new(Counting { inner, calls: self.calls.clone(), room: self.room, records: self.records }))
    }
    fn mark(&self) -> Result<Mark, DeviceError> {
        self.counted("mark").mark()
    }
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let inner = self.counted("allocate");
        if self.calls.of("allocate") > self.room {
            return Err(DeviceError::OutOfMemory {
                asked: bytes,
                free: Self::FREE,
                total: Self::TOTAL,
                held: Self::HELD,
            });
        }
        inner.allocate(bytes)
    }
    fn free(&self, address: u64) {
        self.counted("free").free(address)
    }
    fn upload(&self, data: &[u8], to: u64) -> Result<(), DeviceError> {
        self.counted("upload").upload(data, to)
    }
    fn download(&self, from: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.counted("download").download(from, data)
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.counted("copy").copy(from, to, bytes)
    }
    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        self.counted("fill").fill(at, byte, bytes)
    }
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let inner = self.counted("launch");
        if self.calls.1.load(Ordering::Relaxed) {
            return Err(DeviceError::OutOfMemory { asked: 1, free: Self::FREE, total: Self::TOTAL, held: Self::HELD });
        }
        inner.launch(launch)
    }
    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError> {
        self.counted("allocate_pinned").allocate_pinned(bytes)
    }
    fn free_pinned(&self, host: u64) {
        self.counted("free_pinned").free_pinned(host)
    }
    fn upload_pinned(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.counted("upload_pinned").upload_pinned(from, to, bytes)
    }
    fn finished(&self) -> Result<bool, DeviceError> {
        self.counted("finished").finished()
    }
    fn synchronize(&self) -> Result<(), DeviceError> {
        self.counted("synchronize").synchronize()
    }
    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Option<Box<dyn Recording>>, DeviceError> {
        if self.records { self.counted("record").record(work) } else { Ok(None) }
    }
}
