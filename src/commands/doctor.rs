//! `kiungo doctor`: what this build and this machine can do, and what to do where they cannot.

use super::common::bytes as bytes_in_words;
use super::model::Source;
use crate::device::cuda::{self, Card};
use crate::device::{Device, DeviceError, Tensor};
use crate::formats::collection::Collection;
use crate::formats::pairs;
use crate::ops::residual;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Say what this build and this machine can do
///
/// Each line is ok, or a problem with its remedy. The exit code is 0 where there is no problem. Without a GPU that runs
/// kernels it is 1: then everything runs on the CPU.
#[derive(Args)]
pub struct Doctor {
    /// Look at this model, too: its settings, its tokenizer and the headers of its weights. Of a model by name (org/name) the
    /// weights are not fetched
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<Source>,
    /// Read this file of pairs
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Read this data set (see eval)
    #[arg(long, alias = "xquad", value_name = "PATH")]
    data: Option<PathBuf>,
    /// Where runs are to be written: how fast, and whether there is room
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    found: Result<String, Problem>,
}

struct Problem {
    problem: String,
    remedy: String,
}

/// Memory that a GPU should have left: less than this trains nothing.
const LITTLE_MEMORY: usize = 1 << 30;

impl Doctor {
    pub fn run(self) -> anyhow::Result<()> {
        println!("kiungo {}", env!("CARGO_PKG_VERSION"));
        let mut findings = findings();
        // Behind the CPU: what a GPU needs comes last.
        findings.splice(1..1, self.files());
        findings.iter().for_each(Finding::print);
        match findings.iter().filter(|f| f.found.is_err()).count() {
            0 => Ok(()),
            1 => anyhow::bail!("1 problem: its remedy is above"),
            n => anyhow::bail!("{n} problems: their remedies are above"),
        }
    }
}

/// What is written to measure a disk, and the least that a run wants of it a second.
const WRITTEN: usize = 32 << 20;
const SLOW: f64 = 20e6;

impl Doctor {
    /// What was found of files and folders.
    fn files(&self) -> Vec<Finding> {
        let mut findings = vec![Finding { what: "disk", found: disk(&self.output) }];
        let mut add = |what, found: anyhow::Result<String>| {
            let problem = |e: anyhow::Error| Problem {
                problem: format!("{e:#}"),
                remedy: "see to what the line above says".into(),
            };
            findings.push(Finding { what, found: found.map_err(problem) });
        };
        if let Some(source) = &self.model {
            add("model", model(source));
        }
        if let Some(file) = &self.pairs {
            add("pairs", pairs::read(file, None).map(|p| format!("{} pairs", p.pairs.len())).map_err(Into::into));
        }
        if let Some(path) = &self.data {
            add("questions", questions(path));
        }
        findings
    }
}

/// Writes a file that is removed again.
fn disk(folder: &Path) -> Result<String, Problem> {
    let problem = |e: std::io::Error| Problem {
        problem: format!("{}: {e}", folder.display()),
        remedy: "give a folder that can be written to by --output, or make room there".into(),
    };
    let mut file = tempfile::tempfile_in(folder).map_err(problem)?;
    let bytes = vec![0x5A; WRITTEN];
    let begin = Instant::now();
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(problem)?;
    let rate = WRITTEN as f64 / begin.elapsed().as_secs_f64();
    let words = format!("{} a second to {}", bytes_in_words(rate as usize), folder.display());
    if rate < SLOW {
        let remedy = "checkpoints will take long: save seldom (--save-every 60m), or write to another disk".into();
        return Err(Problem { problem: words, remedy });
    }
    Ok(words)
}

fn model(source: &Source) -> anyhow::Result<String> {
    let files = source.open()?;
    files.tokenizer(None)?;
    let (blocks, hidden) = (files.config.layers, files.config.hidden_size);
    let (missing, all) = files.missing(files.all())?;
    let weights = match all - missing.len() {
        _ if missing.is_empty() => {
            let checkpoint = files.whole()?;
            let size: usize = checkpoint.tensors().map(|(_, tensor)| tensor.bytes()).sum();
            format!("{} tensors, {}", checkpoint.tensors().count(), bytes_in_words(size))
        }
        0 => format!("none of {all} files with weights is here yet, each is fetched when it is needed"),
        here => format!("{here} of {all} files with weights are here, each other is fetched when it is needed"),
    };
    Ok(format!("{blocks} blocks of {hidden} features; {weights}"))
}

fn questions(path: &Path) -> anyhow::Result<String> {
    let collection = Collection::open(path)?;
    let asked = collection.question_languages().into_iter().map(|l| collection.languages[l].as_str());
    let (name, questions, passages) = (&collection.name, collection.questions.len(), collection.passages.len());
    let languages = asked.collect::<Vec<_>>().join(", ");
    Ok(format!("{name}: {questions} in {languages}, over {passages} passages"))
}

fn findings() -> Vec<Finding> {
    let cpu = Finding { what: "CPU", found: Ok(format!("{} threads", rayon::current_num_threads())) };
    let mut findings = vec![cpu, kernels(), driver()];
    let count = cuda::device_count().unwrap_or(0);
    for ordinal in 0..count {
        findings.extend(gpu(ordinal));
    }
    findings
}

fn kernels() -> Finding {
    let found = match (cuda::fatbins().len(), cuda::nvcc_version()) {
        (0, _) => Err(problem(DeviceError::NoKernels)),
        (files, nvcc) => {
            let nvcc = nvcc.unwrap_or("of unknown version");
            Ok(format!("{files} files by nvcc {nvcc}, for {}", cuda::targets().join(", ")))
        }
    };
    Finding { what: "CUDA kernels", found }
}

fn driver() -> Finding {
    let found = cuda::driver_version().map(|version| format!("CUDA {version}"));
    Finding { what: "driver", found: found.map_err(problem) }
}

fn gpu(ordinal: usize) -> Vec<Finding> {
    let card = match cuda::card(ordinal) {
        Ok(card) => card,
        Err(why) => return vec![Finding { what: "GPU", found: Err(problem(why)) }],
    };
    let Card { name, capability: (major, minor), .. } = &card;
    let runs =
        try_a_kernel(ordinal).map(|()| format!("{ordinal}: {name}, compute capability {major}.{minor}, runs kernels"));
    vec![Finding { what: "GPU", found: runs.map_err(problem) }, Finding { what: "GPU memory", found: memory(&card) }]
}

fn memory(card: &Card) -> Result<String, Problem> {
    let [free, total, others] = [card.free, card.total, card.total.saturating_sub(card.free)].map(bytes_in_words);
    let words = format!("{free} of {total} free, {others} held by other programs and the driver");
    if card.free >= LITTLE_MEMORY {
        return Ok(words);
    }
    Err(Problem { problem: words, remedy: "end the programs that hold it (nvidia-smi lists them)".into() })
}

/// One launch, and whether it computes what the CPU does.
fn try_a_kernel(ordinal: usize) -> Result<(), DeviceError> {
    let device = Device::cuda(ordinal)?;
    let tensor = |value: f32| Tensor::from_vec(&device, vec![value; 8], &[1, 8]);
    let mut sum = tensor(1.0)?;
    let failed = |message: String| DeviceError::Driver { call: format!("a kernel on device {ordinal}"), message };
    residual::add(&mut sum, &tensor(2.0)?).map_err(|e| failed(e.to_string()))?;
    match sum.to_vec::<f32>()? {
        sum if sum == [3.0; 8] => Ok(()),
        sum => Err(failed(format!("1 + 2 is {sum:?}"))),
    }
}

/// What went wrong, and what helps.
fn problem(why: DeviceError) -> Problem {
    let (problem, remedy) = match &why {
        DeviceError::NoKernels => (
            "none: nvcc was not found when this binary was built".into(),
            "install CUDA 13.0's nvcc, or set NVCC, and build again".into(),
        ),
        DeviceError::NoDevice(what) => (
            what.clone(),
            "install NVIDIA's driver 580 or newer; in a container, start it with --gpus all; look at CUDA_VISIBLE_DEVICES".into(),
        ),
        DeviceError::OldDriver { found, needed } => {
            (format!("supports CUDA {found}, the kernels need {needed}"), "update NVIDIA's driver to 580 or newer".into())
        }
        DeviceError::OldCard { .. } | DeviceError::NoKernelsForCard { .. } => {
            (why.to_string(), "use --device cpu, or another card".into())
        }
        DeviceError::OutOfMemory { .. } => (why.to_string(), "end the programs that hold it (nvidia-smi lists them)".into()),
        _ => (why.to_string(), "see whether nvidia-smi shows the card well; restart the machine if it does not".into()),
    };
    Problem { problem, remedy }
}

impl Finding {
    fn print(&self) {
        let what = self.what;
        match &self.found {
            Ok(found) => println!("ok       {what:<13} {found}"),
            Err(Problem { problem, remedy }) => {
                println!("problem  {what:<13} {problem}");
                println!("         {:<13} {remedy}", "remedy:");
            }
        }
    }
}
