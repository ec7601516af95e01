//! A GPU on paper: it keeps what is launched, and runs none of it.

use kiungo::device::{DeviceError, Executor, Launch, Mark, Memory};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A card of that compute capability. Its memory has addresses and no contents: what is read from it is zeros.
#[derive(Clone)]
pub struct Paper {
    capability: u32,
    multiprocessors: u32,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    launches: Vec<Launch>,
    next: u64,
    pinned: HashMap<u64, Vec<u128>>,
}

impl Paper {
    const TOTAL: usize = 80_000_000_000;

    pub fn new(capability: u32, multiprocessors: u32) -> Paper {
        let shared = Shared { next: 1 << 40, ..Shared::default() };
        Paper { capability, multiprocessors, shared: Arc::new(Mutex::new(shared)) }
    }

    /// What was launched since the last call.
    pub fn take(&self) -> Vec<Launch> {
        std::mem::take(&mut self.shared.lock().unwrap().launches)
    }
}

impl Executor for Paper {
    fn name(&self) -> &str {
        "paper"
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn capability(&self) -> u32 {
        self.capability
    }

    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError> {
        Ok(Box::new(self.clone()))
    }

    fn memory(&self) -> Option<Memory> {
        Some(Memory { free: Self::TOTAL, total: Self::TOTAL, held: 0, peak: 0 })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let mut shared = self.shared.lock().unwrap();
        let address = shared.next;
        shared.next += (bytes as u64).next_multiple_of(256);
        Ok(address)
    }

    fn free(&self, _address: u64) {}

    fn upload(&self, _data: &[u8], _to: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    fn download(&self, _from: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        data.fill(0);
        Ok(())
    }

    fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn fill(&self, _at: u64, _byte: u8, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.shared.lock().unwrap().launches.push(launch.clone());
        Ok(())
    }

    /// The host writes and reads it, so it is there.
    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError> {
        let memory = vec![0u128; bytes.div_ceil(16)];
        let address = memory.as_ptr() as u64;
        self.shared.lock().unwrap().pinned.insert(address, memory);
        Ok([address; 2])
    }

    fn free_pinned(&self, host: u64) {
        self.shared.lock().unwrap().pinned.remove(&host);
    }

    fn upload_pinned(&self, _from: u64, _to: u64, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        Ok(Mark::passed())
    }

    fn finished(&self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
