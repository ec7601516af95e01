use super::DType;

/// What can go wrong with memory, transfers and launches.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// This build has no CUDA kernels in it.
    #[error(
        "this build has no CUDA kernels: nvcc was not found when it was built. Install CUDA 13.0's nvcc, or set NVCC, and build again"
    )]
    NoKernels,
    /// There is no driver, or no device.
    #[error("no CUDA device: {0}")]
    NoDevice(String),
    /// The driver is older than the kernels need.
    #[error("the NVIDIA driver supports CUDA {found}, and these kernels need {needed}: update the driver")]
    OldDriver {
        /// What the driver supports, as `major.minor`.
        found: String,
        /// What the kernels were built for.
        needed: String,
    },
    /// The card is older than Ampere.
    #[error("{name} has compute capability {major}.{minor}; the kernels need 8.0 (A100, RTX 30) or newer")]
    OldCard {
        /// The card's name.
        name: String,
        /// Compute capability, major.
        major: i32,
        /// Compute capability, minor.
        minor: i32,
    },
    /// The kernels are of other cards.
    #[error(
        "this build has no kernels that {card} runs (it has {targets}): build it again, with kernels for this card"
    )]
    NoKernelsForCard {
        /// The card's name.
        card: String,
        /// What the kernels were compiled for.
        targets: String,
    },
    /// A driver call failed.
    #[error("{call}: {message}")]
    Driver {
        /// What was being done, with a kernel's name and shape where there is one.
        call: String,
        /// The driver's own words.
        message: String,
    },
    /// Not enough memory on the device.
    #[error(
        "out of GPU memory: {asked} bytes asked for, {free} of {total} bytes free, {held} held by this run and {} by other programs and the driver. Use a smaller batch, fewer blocks, or --base nf4",
        total.saturating_sub(free.saturating_add(*held))
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes free on the device.
        free: usize,
        /// Bytes the device has.
        total: usize,
        /// Bytes that the executor holds already.
        held: usize,
    },
    /// The kernel named is in no module.
    #[error("no kernel {kernel} in module {module}")]
    NoSuchKernel {
        /// File stem under `kernels/`.
        module: String,
        /// Kernel name.
        kernel: String,
    },
    /// A tensor was read as another element type than it has.
    #[error("tensor of {found} read as {expected}")]
    DType {
        /// The type asked for.
        expected: DType,
        /// The type it has.
        found: DType,
    },
    /// Host data of the wrong length, or rows beyond a tensor's capacity.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// What was being done.
        what: &'static str,
        /// Elements expected (or the capacity).
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A shape of more elements than any memory holds.
    #[error("no memory holds a tensor of shape {shape:?}")]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// A tensor that lives on a GPU was read as if it were on the host.
    #[error("tensor is on {0}, not on the CPU")]
    NotOnHost(String),
    /// Memory or a stream of another CUDA context than the GPU's.
    #[error("{what} of another CUDA context cannot be used: make it with the context of the GPU's stream")]
    OtherContext {
        /// What was given.
        what: &'static str,
    },
    /// Memory that kernels cannot read in vectors.
    #[error("device address {address:#x} is not a multiple of {needed} bytes: begin the slice at one that is")]
    Alignment {
        /// The address.
        address: u64,
        /// What it must be a multiple of.
        needed: u64,
    },
    /// The tensor holds no slice of that type that was handed over to it.
    #[error("the tensor holds no CudaSlice of {0} that was handed over to it")]
    NoSlice(DType),
}

/// An error of the driver's, with the call that it came from.
pub(super) fn failed(call: impl Into<String>, e: impl std::fmt::Display) -> DeviceError {
    DeviceError::Driver { call: call.into(), message: e.to_string() }
}
