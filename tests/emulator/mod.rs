//! Runs the real kernel sources on the CPU: an [`Executor`] that compiles `kernels/*.cu` with the C++ compiler.
//!
//! `emulator.h` and `emulator.cpp` say what a launch is checked for. On top of that, memory is filled with NaN bytes
//! when it is allocated. `faults.cu` holds kernels with a fault each, to see that it is found.

mod faults;

use kiungo::device::{DeviceError, Executor, Launch, Mark, Memory, Recording};
use libloading::Library;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

const ALIGNMENT: usize = 256;
/// Every access of a kernel is reported (-fsanitize=thread; emulator.cpp holds the hooks) and rounds as written.
const KERNEL_FLAGS: &[&str] = &["-fsanitize=thread", "-fno-exceptions", "-fno-strict-aliasing", "-ffp-contract=off"];
/// Hidden: a template's __shared__ variables would otherwise be one for all libraries of the process.
const FLAGS: &[&str] = &["-O2", "-fPIC", "-std=c++17", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-DKIUNGO_EMULATOR"];

/// An emulated GPU with memory of its own.
#[derive(Clone, Default)]
pub struct Emulator {
    memory: Arc<Mutex<BTreeMap<u64, Allocation>>>,
    /// Bytes of device memory that are allocated, and the most that were.
    held: Arc<Mutex<[usize; 2]>>,
    /// What is being recorded, instead of being run.
    recording: Arc<Mutex<Option<Vec<Call>>>>,
}

/// What can be recorded.
enum Call {
    Copy { from: u64, to: u64, bytes: usize },
    Fill { at: u64, byte: u8, bytes: usize },
    Launch(Launch),
}

struct Recorded {
    emulator: Emulator,
    calls: Vec<Call>,
}

impl Recording for Recorded {
    fn replay(&self) -> Result<(), DeviceError> {
        self.calls.iter().try_for_each(|call| match call {
            Call::Copy { from, to, bytes } => self.emulator.copy(*from, *to, *bytes),
            Call::Fill { at, byte, bytes } => self.emulator.fill(*at, *byte, *bytes),
            Call::Launch(launch) => self.emulator.launch(launch),
        })
    }
}

struct Allocation {
    data: Vec<u128>,
    bytes: usize,
    pinned: bool,
}

#[repr(C)]
struct Buffer {
    address: u64,
    bytes: u64,
}

/// `emulator::Launch` of emulator.h.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u64,
    params: *const c_void,
    params_bytes: u64,
    buffers: *const Buffer,
    buffer_count: u64,
}

/// Why kernels cannot be emulated here, if so.
pub fn unavailable() -> Option<&'static str> {
    static REASON: OnceLock<Option<&'static str>> = OnceLock::new();
    *REASON.get_or_init(|| {
        if !kernels().join("kernel.cuh").exists() {
            return Some("no kernel sources");
        }
        let answers = Command::new(compiler()).arg("--version").output().is_ok_and(|o| o.status.success());
        if answers { None } else { Some("no C++ compiler") }
    })
}

impl Emulator {
    /// Bytes of memory that it says it has.
    pub const TOTAL: usize = 80_000_000_000;

    /// One whose memory is empty.
    pub fn new() -> Emulator {
        Emulator::default()
    }

    /// Keeps a call for later if there is a recording.
    fn keep(&self, call: impl FnOnce() -> Call) -> bool {
        let mut recording = self.recording.lock().unwrap();
        recording.as_mut().map(|calls| calls.push(call())).is_some()
    }

    /// An error in a recording, as the driver has it.
    fn not_recorded(&self, what: &str) -> Result<(), DeviceError> {
        match &*self.recording.lock().unwrap() {
            Some(_) => Err(failed(what, "cannot be recorded")),
            None => Ok(()),
        }
    }

    /// The host bytes behind `at..at + bytes`, which must lie in one allocation.
    fn range(&self, at: u64, bytes: usize) -> Result<*mut u8, DeviceError> {
        let memory = self.memory.lock().unwrap();
        let inside =
            memory.range(..=at).next_back().is_some_and(|(base, a)| at as usize + bytes <= *base as usize + a.bytes);
        let outside = || failed("transfer", format!("{bytes} bytes at {at:#x} are not in one allocation"));
        if inside { Ok(at as *mut u8) } else { Err(outside()) }
    }
}

fn failed(call: &str, message: impl Into<String>) -> DeviceError {
    DeviceError::Driver { call: call.into(), message: message.into() }
}

impl Executor for Emulator {
    fn name(&self) -> &str {
        "emulator"
    }

    fn multiprocessors(&self) -> u32 {
        3
    }

    fn capability(&self) -> u32 {
        80
    }

    fn beside(&self) -> Result<Box<dyn Executor>, DeviceError> {
        Ok(Box::new(Emulator { recording: Arc::default(), ..self.clone() }))
    }

    fn memory(&self) -> Option<Memory> {
        let [held, peak] = *self.held.lock().unwrap();
        Some(Memory { free: Self::TOTAL - held, total: Self::TOTAL, held, peak })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.not_recorded("allocate")?;
        let data = vec![u128::MAX; (bytes + ALIGNMENT).div_ceil(16)];
        let address = (data.as_ptr() as u64).next_multiple_of(ALIGNMENT as u64);
        self.memory.lock().unwrap().insert(address, Allocation { data, bytes, pinned: false });
        let mut held = self.held.lock().unwrap();
        held[0] += bytes;
        held[1] = held[1].max(held[0]);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let freed = self.memory.lock().unwrap().remove(&address);
        self.held.lock().unwrap()[0] -= freed.filter(|a| !a.pinned).map_or(0, |a| a.bytes);
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<(), DeviceError> {
        self.not_recorded("upload")?;
        let to = self.range(to, data.len())?;
        // SAFETY: `range` found the bytes in a live allocation.
        unsafe { std::ptr::copy(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    fn download(&self, from: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.not_recorded("download")?;
        let from = self.range(from, data.len())?;
        // SAFETY: as above.
        unsafe { std::ptr::copy(from, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        if self.keep(|| Call::Copy { from, to, bytes }) {
            return Ok(());
        }
        let (from, to) = (self.range(from, bytes)?, self.range(to, bytes)?);
        // SAFETY: as above.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<(), DeviceError> {
        if self.keep(|| Call::Fill { at, byte, bytes }) {
            return Ok(());
        }
        let at = self.range(at, bytes)?;
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(at, byte, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        if self.keep(|| Call::Launch(launch.clone())) {
            return Ok(());
        }
        let library = library(launch.module).map_err(|e| failed(launch.module, e))?;
        let buffers: Vec<Buffer> = {
            let memory = self.memory.lock().unwrap();
            debug_assert!(memory.values().all(|a| a.data.len() * 16 >= a.bytes));
            memory.iter().map(|(&address, a)| Buffer { address, bytes: a.bytes as u64 }).collect()
        };
        let mut params = vec![0u128; launch.params.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut params)[..launch.params.len()].copy_from_slice(&launch.params);
        let raw = RawLaunch {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes.into(),
            params: params.as_ptr().cast(),
            params_bytes: launch.params.len() as u64,
            buffers: buffers.as_ptr(),
            buffer_count: buffers.len() as u64,
        };
        let missing = |_| DeviceError::NoSuchKernel { module: launch.module.into(), kernel: launch.kernel.into() };
        // SAFETY: KERNEL in emulator.h gives every kernel this signature; the emulator checks every access.
        let message = unsafe {
            let run = library.get::<unsafe extern "C" fn(*const RawLaunch) -> *const c_char>(launch.kernel.as_bytes());
            let message = run.map_err(missing)?(&raw);
            if message.is_null() { None } else { Some(CStr::from_ptr(message).to_string_lossy().into_owned()) }
        };
        match message {
            None => Ok(()),
            Some(message) => {
                let [gx, gy, gz] = launch.grid;
                Err(failed(&format!("{} with grid {gx}x{gy}x{gz}", launch.kernel), message))
            }
        }
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<[u64; 2], DeviceError> {
        let peak = self.held.lock().unwrap()[1];
        let address = self.allocate(bytes)?;
        self.fill(address, 0, bytes)?;
        // It is the host's.
        self.memory.lock().unwrap().get_mut(&address).unwrap().pinned = true;
        let mut held = self.held.lock().unwrap();
        *held = [held[0] - bytes, peak];
        Ok([address; 2])
    }

    fn free_pinned(&self, host: u64) {
        self.free(host);
    }

    fn upload_pinned(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.copy(from, to, bytes)
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        Ok(Mark::passed())
    }

    fn finished(&self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.not_recorded("synchronize")
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Option<Box<dyn Recording>>, DeviceError> {
        *self.recording.lock().unwrap() = Some(vec![]);
        let done = work();
        let calls = self.recording.lock().unwrap().take().unwrap_or_default();
        done?;
        Ok(Some(Box::new(Recorded { emulator: self.clone(), calls })))
    }
}

/// The library of `kernels/<module>.cu`, compiled once for each content.
fn library(module: &'static str) -> Result<Arc<Library>, String> {
    type Slot = Arc<OnceLock<Result<Arc<Library>, String>>>;
    static LIBRARIES: OnceLock<Mutex<HashMap<&'static str, Slot>>> = OnceLock::new();
    let slot = LIBRARIES.get_or_init(Mutex::default).lock().unwrap().entry(module).or_default().clone();
    slot.get_or_init(|| {
        let [kernel, fault] = [kernels(), emulator()].map(|folder| folder.join(module).with_extension("cu"));
        let path = compile(if kernel.exists() { &kernel } else { &fault }, module)?;
        // SAFETY: the library has no initialisers of its own.
        unsafe { Library::new(&path) }.map(Arc::new).map_err(|e| format!("{}: {e}", path.display()))
    })
    .clone()
}

fn compile(source: &Path, module: &str) -> Result<PathBuf, String> {
    /// The emulator itself, which each library gets a copy of.
    static OBJECT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let object = OBJECT.get_or_init(|| {
        let source = emulator().join("emulator.cpp");
        made_once(format!("emulator-{}.o", key(&source)?), |object| {
            run(compiler_with(FLAGS).arg("-c").arg(&source).arg("-o").arg(object))
        })
    });
    let object = object.as_ref().map_err(String::clone)?;
    made_once(format!("{module}-{}.so", key(source)?), |library| {
        let kernel = library.with_extension("kernel.o");
        let flags = [FLAGS, KERNEL_FLAGS, &["-x", "c++", "-c"]].concat();
        run(compiler_with(&flags).arg(source).arg("-o").arg(&kernel))?;
        run(compiler_with(&["-shared"]).arg(&kernel).arg(object).arg("-o").arg(library))
    })
}

/// A file of the cache, made where it is not there yet.
fn made_once(name: String, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let folder = cache();
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let path = folder.join(&name);
    if !path.exists() {
        // Another process may be at it: each writes names of its own, and the last rename wins.
        let scratch = tempfile::tempdir_in(&folder).map_err(failed)?;
        make(&scratch.path().join(&name))?;
        std::fs::rename(scratch.path().join(&name), &path).map_err(failed)?;
    }
    Ok(path)
}

fn compiler_with(flags: &[&str]) -> Command {
    let mut command = Command::new(compiler());
    command.args(flags).arg("-I").arg(kernels()).arg("-I").arg(emulator());
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// What the library is made of: the source, every header it may include, the emulator, and how it is compiled.
fn key(source: &Path) -> Result<String, String> {
    let mut files = vec![source.to_path_buf()];
    for folder in [kernels(), kernels().join("ptx"), kernels().join("tile"), emulator()] {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
        files.extend(entries.filter(|p| matches!(p.extension().and_then(|x| x.to_str()), Some("cuh" | "h" | "cpp"))));
    }
    files.sort();
    let mut hash = Sha256::new();
    hash.update(compiler());
    hash.update(format!("{FLAGS:?}{KERNEL_FLAGS:?}"));
    for file in files {
        hash.update(std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?);
    }
    Ok(hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect())
}

/// The C++ compiler of this machine.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

fn emulator() -> PathBuf {
    crate::support::path("emulator")
}

fn kernels() -> PathBuf {
    crate::support::path("../kernels")
}

fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if target.exists() { target.join("emulator") } else { std::env::temp_dir().join("kiungo-emulator") }
}
