//! Host memory that the driver pins, in pages of 2 MiB where the system has them.
//!
//! `cuMemHostAlloc` zeroes and pins memory 4 KiB at a time: 128 MiB take 86 ms on an H100's host. In huge pages,
//! touched first and registered then, they take 13 ms.

use crate::device::DeviceError;
use crate::device::error::failed;
use cudarc::driver::{result, sys};
use memmap2::MmapMut;
use std::ffi::c_void;

const HUGE: usize = 2 << 20;

/// Memory that was allocated by the driver, or registered with it.
pub(super) enum HostPages {
    Driver(*mut c_void),
    Registered(MmapMut),
}

// SAFETY: an address that any thread may use; its owner decides who writes.
unsafe impl Send for HostPages {}

impl HostPages {
    /// Zeros, and their address. A context is current.
    pub fn new(bytes: usize) -> Result<(HostPages, u64), DeviceError> {
        // Where memory cannot be registered, the driver allocates it.
        match HostPages::registered(bytes) {
            Some(found) => Ok(found),
            None => HostPages::of_driver(bytes),
        }
    }

    fn registered(bytes: usize) -> Option<(HostPages, u64)> {
        if bytes < HUGE {
            return None;
        }
        let mut map = MmapMut::map_anon(bytes.next_multiple_of(HUGE) + HUGE).ok()?;
        // Without huge pages it is slower, and as good.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let begin = map.as_ptr().align_offset(HUGE);
        let (host, bytes) = (map[begin..].as_mut_ptr(), bytes.next_multiple_of(HUGE));
        for page in map[begin..begin + bytes].chunks_mut(4096) {
            page[0] = 0;
        }
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_PORTABLE;
        // SAFETY: the range lies in the map, which is kept until the range is given back.
        unsafe { sys::cuMemHostRegister_v2(host.cast(), bytes, flags) }.result().ok()?;
        Some((HostPages::Registered(map), host as u64))
    }

    fn of_driver(bytes: usize) -> Result<(HostPages, u64), DeviceError> {
        // SAFETY: the context is current; the memory is written inside its bounds before it is handed out.
        unsafe {
            let host = result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE)
                .map_err(|e| failed(format!("cuMemHostAlloc of {bytes} bytes"), e))?;
            std::ptr::write_bytes(host.cast::<u8>(), 0, bytes);
            Ok((HostPages::Driver(host), host as u64))
        }
    }

    /// Gives them back. The context that they were made in is current, and nothing uses them any more.
    pub fn free(self, host: u64) {
        // An error here has been reported by an earlier call.
        match self {
            HostPages::Driver(host) => {
                // SAFETY: as the driver gave it, and freed once.
                let _ = unsafe { result::free_host(host) };
            }
            HostPages::Registered(map) => {
                // SAFETY: the address is what `registered` registered; the map goes afterwards.
                let _ = unsafe { sys::cuMemHostUnregister(host as *mut c_void) };
                drop(map);
            }
        }
    }
}
