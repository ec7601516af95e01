//! What subcommands share: choosing the device, progress, words for lists.

use crate::device::{DType, Device, DeviceError};
use indicatif::{ProgressBar, ProgressStyle};

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU, or the CPU with a word about why.
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU, or an error.
    Cuda,
}
crate::words::words! { DeviceChoice: "device" { Auto = "auto", Cpu = "cpu", Cuda = "cuda" } }

/// Element type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// Single precision.
    F32,
    /// bfloat16, rounded once at the end of each op.
    Bf16,
}
crate::words::words! { Compute: "compute precision" { F32 = "f32", Bf16 = "bf16" } }

impl Compute {
    /// The precision asked for, or a device's own: f32 on the CPU, bf16 on a GPU.
    pub fn or_default(choice: Option<Compute>, device: &Device) -> DType {
        match (choice, device) {
            (Some(Compute::F32), _) | (None, Device::Cpu) => DType::F32,
            (Some(Compute::Bf16), _) | (None, Device::Cuda(_)) => DType::Bf16,
        }
    }
}

/// Opens the device and says in one line which it is.
pub fn open_device(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Cpu => {
            eprintln!("device: {}", device_in_words(&Device::Cpu));
            Ok(Device::Cpu)
        }
        DeviceChoice::Cuda => {
            let device = Device::cuda(0)?;
            eprintln!("device: {device}");
            Ok(device)
        }
        DeviceChoice::Auto => match Device::cuda(0) {
            Ok(device) => {
                eprintln!("device: {device}");
                Ok(device)
            }
            Err(why) => {
                eprintln!("device: {}; no GPU is used: {why}", device_in_words(&Device::Cpu));
                Ok(Device::Cpu)
            }
        },
    }
}

/// The device as reports name it.
pub fn device_in_words(device: &Device) -> String {
    match device {
        Device::Cpu => format!("CPU with {} threads", rayon::current_num_threads()),
        Device::Cuda(gpu) => gpu.name().to_string(),
    }
}

/// A bar for long work; silent where standard error is no terminal.
pub fn progress(length: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len} {msg} {elapsed}<{eta}");
    let bar = ProgressBar::new(length as u64).with_prefix(what);
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Bytes for people: `1.5 GB`.
pub fn bytes(n: usize) -> String {
    indicatif::DecimalBytes(n as u64).to_string()
}
