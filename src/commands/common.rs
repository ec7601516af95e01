//! What subcommands share: choosing the device, progress, words for lists.

use crate::device::{DType, Device, DeviceError, Memory};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::time::Instant;

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

/// What a GPU holds, where its memory is counted.
pub fn memory(device: &Device) -> Option<Memory> {
    match device {
        Device::Cpu => None,
        Device::Cuda(gpu) => gpu.memory(),
    }
}

/// From here on, the most that is held is counted anew.
pub fn forget_peak(device: &Device) {
    if let Device::Cuda(gpu) = device {
        gpu.forget_peak();
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

/// Fetches files, with a bar for each that takes its time.
pub fn fetching<T>(fetch: impl FnOnce(&dyn Fn(&str, u64, u64)) -> T) -> T {
    let bar = ProgressBar::no_length().with_prefix("fetching");
    let template = "{prefix:>12} {msg} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec} {elapsed}<{eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let fetched = fetch(&|file, done, total| {
        if bar.message() != file {
            bar.reset();
            bar.set_message(file.to_string());
        }
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    fetched
}

/// A bar over the tokens of texts that are done in their order, with tokens a second and the time left.
pub struct TextBar {
    bar: ProgressBar,
    /// Tokens of all texts up to each.
    ends: Vec<usize>,
    done: Cell<usize>,
    begin: Instant,
}

impl TextBar {
    /// For texts of so many tokens each.
    pub fn new(lengths: impl Iterator<Item = usize>, what: &'static str) -> TextBar {
        let ends: Vec<usize> = lengths.scan(0, |sum, n| Some((*sum += n, *sum).1)).collect();
        let bar = progress(ends.last().copied().unwrap_or(0), what);
        let template = "{prefix:>12} [{bar:30}] {human_pos}/{human_len} tokens, {per_sec} {elapsed}<{eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        TextBar { bar, ends, done: Cell::new(0), begin: Instant::now() }
    }

    /// So many further texts are done.
    pub fn advance(&self, texts: usize) {
        self.done.set(self.done.get() + texts);
        let tokens = self.done.get().checked_sub(1).and_then(|last| self.ends.get(last));
        self.bar.set_position(tokens.copied().unwrap_or(0) as u64);
    }

    /// Takes the bar away and says how long it took.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        let (tokens, seconds) = (self.ends.last().copied().unwrap_or(0), self.begin.elapsed().as_secs_f64());
        let rate = HumanCount((tokens as f64 / seconds.max(1e-9)) as u64);
        eprintln!("{} tokens in {seconds:.1} s: {rate} tokens/s", HumanCount(tokens as u64));
    }
}

/// Bytes for people: `1.5 GB`.
pub fn bytes(n: usize) -> String {
    indicatif::DecimalBytes(n as u64).to_string()
}
