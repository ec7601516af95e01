//! Weights to a GPU, piece by piece through pinned memory.
//!
//! The calling thread walks the model from the bottom up, checks and allocates each tensor, and then hands out pieces.
//! Threads, each with a stream of its own, take one piece after another: read the file into pinned memory, copy that to
//! the GPU, convert or quantise it there. A thread reads into one buffer while the copy engine empties another.

use super::{LoadError, Options};
use crate::device::{DType, Device, DeviceError, Gpu, Mark, Pinned, Tensor};
use crate::formats::nf4;
use crate::formats::safetensors::{Checkpoint, Floats};
use crate::llama::Parts;
use crate::llama::config::Config;
use crate::llama::model::{Base, Model, Weights, names};
use crate::ops::OpError;
use crate::ops::convert::{Report, Stored, convert};
use crate::ops::linear::Weight;
use crate::ops::nf4::{BLOCK, Nf4Tensor, Scales, quantize, quantize_absmax};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// How bytes come to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Threads that read.
    pub threads: usize,
    /// Pinned buffers of each.
    pub buffers: usize,
    /// Bytes of a buffer.
    pub bytes: usize,
}

impl Default for Transfer {
    /// As many threads as there are cores, up to 16, each with two buffers of 4 MiB: small, for pinning memory takes
    /// time, and large enough that what a copy costs beside its bytes does not show.
    fn default() -> Transfer {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Transfer { threads: cores.min(16), buffers: 2, bytes: 4 << 20 }
    }
}

impl Transfer {
    /// Bytes that reading takes on the GPU beside the weights themselves.
    pub fn device_bytes(&self, checkpoint: &Checkpoint, config: &Config, parts: Parts, base: Base) -> usize {
        let scratch = if base.is_quantised() { scratch_bytes(checkpoint, *self) } else { 0 };
        let buffers = self.threads.max(1) * self.buffers.max(1) * (self.buffer(self.bytes) + self.buffer(scratch));
        let linear = config.block_parameters() - 2 * config.hidden_size;
        let absmax = if base == Base::Nf4Double { parts.blocks * linear / BLOCK * size_of::<f32>() } else { 0 };
        buffers + absmax
    }

    /// A buffer holds a block of NF4 at least.
    fn buffer(&self, bytes: usize) -> usize {
        bytes.max(BLOCK * size_of::<f32>())
    }

    /// Values of a piece: whole blocks of NF4.
    fn values(&self, stored: Stored) -> usize {
        (self.bytes / stored.size() / BLOCK).max(1) * BLOCK
    }
}

/// Reads a model onto a GPU.
pub fn load(
    checkpoint: &Checkpoint,
    config: &Config,
    options: Options,
    gpu: &Gpu,
    transfer: Transfer,
    progress: impl Fn(&str),
) -> Result<Model, LoadError> {
    let (queue, pieces) = sync_channel(2 * transfer.threads.max(1));
    let pieces = Pieces { queue: Mutex::new(pieces), stopped: AtomicBool::new(false) };
    let mut plan = Plan { checkpoint, options, jobs: vec![], absmax: BTreeMap::new() };
    let scratch = if options.base.is_quantised() { scratch_bytes(checkpoint, transfer) } else { 0 };
    let (mut model, report) = thread::scope(|scope| {
        // They pin their memory while tensors are allocated here.
        let lane = || pieces.work(|| Lane::new(gpu.beside()?, transfer, scratch));
        let lanes: Vec<_> = (0..transfer.threads.max(1)).map(|_| scope.spawn(lane)).collect();
        let model = Model::assemble(config, options, &mut plan).and_then(|model| {
            let report = Arc::new(Report::new(options.device, plan.jobs.len())?);
            // The lanes' streams wait for nothing that was launched here.
            gpu.synchronize()?;
            hand_out(&plan.jobs, &report, transfer, &pieces, &queue, progress);
            Ok((model, report))
        });
        drop(queue);
        let finished = lanes.into_iter().map(join).collect::<Vec<_>>();
        let model = model?;
        finished.into_iter().collect::<Result<(), _>>().map(|()| model)
    })?;
    plan.check(&report)?;
    plan.finish_scales(&mut model)?;
    Ok(model)
}

fn join(lane: ScopedJoinHandle<Result<(), LoadError>>) -> Result<(), LoadError> {
    lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a buffer's values take in the type that they are quantised from.
fn scratch_bytes(checkpoint: &Checkpoint, transfer: Transfer) -> usize {
    let halves = checkpoint.tensors().any(|(_, info)| info.dtype == safetensors::Dtype::F16);
    if halves { 2 * transfer.bytes } else { transfer.bytes }
}

/// A tensor to fill.
struct Job<'a> {
    name: String,
    floats: Floats<'a>,
    target: Target,
}

/// Where values go: device addresses of a tensor that the model holds.
#[derive(Clone, Copy)]
enum Target {
    Dense { address: u64, dtype: DType },
    Nf4 { codes: u64, absmax: u64 },
}

impl Target {
    /// The type that values must be finite in.
    fn dtype(self) -> DType {
        match self {
            Target::Dense { dtype, .. } => dtype,
            Target::Nf4 { .. } => DType::F32,
        }
    }
}

/// Allocates the model's tensors, and keeps what is to be read into them.
struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    options: Options<'a>,
    jobs: Vec<Arc<Job<'a>>>,
    /// Scales that are quantised when all are there.
    absmax: BTreeMap<String, Tensor>,
}

impl Plan<'_> {
    fn add(&mut self, name: &str, shape: &[usize], target: Target) -> Result<(), LoadError> {
        self.checkpoint.expect_shape(name, shape)?;
        let floats = self.checkpoint.floats(name)?;
        self.jobs.push(Arc::new(Job { name: name.into(), floats, target }));
        Ok(())
    }

    /// An error if a value was not finite.
    fn check(&self, report: &Report) -> Result<(), LoadError> {
        for (job, found) in self.jobs.iter().zip(report.read()?) {
            if let Some(at) = found {
                return Err(self.checkpoint.not_finite_at(&job.name, at as usize, job.target.dtype()).into());
            }
        }
        Ok(())
    }

    fn finish_scales(&mut self, model: &mut Model) -> Result<(), LoadError> {
        for (i, block) in model.blocks.iter_mut().enumerate() {
            for (projection, weight) in block.linear.iter_mut() {
                let absmax = self.absmax.remove(&names::linear(i, projection));
                if let (Weight::Nf4(weight), Some(absmax)) = (weight, absmax) {
                    quantize_absmax(&absmax, weight)?;
                }
            }
        }
        Ok(())
    }
}

impl Weights for Plan<'_> {
    type Error = LoadError;

    fn dense(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        let tensor = Tensor::uninitialized(self.options.device, dtype, shape)?;
        self.add(name, shape, Target::Dense { address: tensor.address()?, dtype })?;
        Ok(tensor)
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, LoadError> {
        let Options { base, device, .. } = self.options;
        // What bitsandbytes left out of the quantisation is dense in such a checkpoint too.
        if nf4::is_quantised(self.checkpoint, name) {
            return Ok(Weight::Nf4(nf4::read(self.checkpoint, name, shape, device)?));
        }
        if !base.is_quantised() {
            return Ok(Weight::Dense(self.dense(name, &shape, base.dtype())?));
        }
        let weight = Nf4Tensor::empty(device, shape, base == Base::Nf4Double)?;
        let absmax = match &weight.scales {
            Scales::Plain { absmax } => absmax.address()?,
            Scales::Double { codes, .. } => {
                let absmax = Tensor::uninitialized(device, DType::F32, codes.shape())?;
                self.absmax.entry(name.into()).or_insert(absmax).address()?
            }
        };
        self.add(name, &shape, Target::Nf4 { codes: weight.codes.address()?, absmax })?;
        Ok(Weight::Nf4(weight))
    }
}

/// Some values of a tensor.
struct Piece<'a> {
    job: Arc<Job<'a>>,
    first: usize,
    count: usize,
    report: Arc<Report>,
    /// The tensor's place in the report.
    place: usize,
}

fn hand_out<'a>(
    jobs: &[Arc<Job<'a>>],
    report: &Arc<Report>,
    transfer: Transfer,
    pieces: &Pieces,
    queue: &SyncSender<Piece<'a>>,
    progress: impl Fn(&str),
) {
    for (place, job) in jobs.iter().enumerate() {
        progress(&job.name);
        let step = transfer.values(job.floats.stored);
        for first in (0..job.floats.count).step_by(step) {
            let count = step.min(job.floats.count - first);
            let piece = Piece { job: job.clone(), first, count, report: report.clone(), place };
            // Whoever stopped says why.
            if pieces.stopped.load(Ordering::Relaxed) || queue.send(piece).is_err() {
                return;
            }
        }
    }
}

/// What the threads take their work from.
struct Pieces<'a> {
    queue: Mutex<Receiver<Piece<'a>>>,
    /// Somebody has failed: what is left is thrown away.
    stopped: AtomicBool,
}

impl Pieces<'_> {
    fn next(&self) -> Option<Piece<'_>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// A thread's life. It takes pieces to the end even when it has failed, so that nobody waits for room in the queue.
    fn work(&self, lane: impl FnOnce() -> Result<Lane, DeviceError>) -> Result<(), LoadError> {
        let mut lane = lane().map_err(LoadError::from);
        let mut result = Ok(());
        while let Some(piece) = self.next() {
            if let (Ok(lane), Ok(()), false) = (&mut lane, &result, self.stopped.load(Ordering::Relaxed)) {
                result = lane.send(&piece);
            }
            if lane.is_err() || result.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
            }
        }
        let lane = lane?;
        result?;
        Ok(lane.gpu.synchronize()?)
    }
}

/// A thread's stream and buffers.
struct Lane {
    gpu: Gpu,
    buffers: Vec<Buffer>,
    next: usize,
}

struct Buffer {
    host: Pinned,
    /// The same bytes on the GPU.
    stored: Tensor,
    /// The values to quantise.
    values: Tensor,
    /// Behind the launches that use it.
    busy: Mark,
}

impl Lane {
    fn new(gpu: Gpu, transfer: Transfer, scratch: usize) -> Result<Lane, DeviceError> {
        let device = Device::Cuda(gpu.clone());
        let room = |bytes: usize| Tensor::uninitialized(&device, DType::U8, &[bytes]);
        let buffer = |_| {
            let bytes = transfer.buffer(transfer.bytes);
            let (host, stored) = (Pinned::new(&gpu, bytes)?, room(bytes)?);
            let values = room(transfer.buffer(scratch))?;
            Ok(Buffer { host, stored, values, busy: Mark::passed() })
        };
        let buffers = (0..transfer.buffers.max(1)).map(buffer).collect::<Result<_, DeviceError>>()?;
        Ok(Lane { gpu, buffers, next: 0 })
    }

    /// Reads a piece and queues what the GPU does with it.
    fn send(&mut self, piece: &Piece) -> Result<(), LoadError> {
        let Lane { gpu, buffers, next } = self;
        let place = *next % buffers.len();
        *next += 1;
        let Some(buffer) = buffers.get_mut(place) else { return Ok(()) };
        buffer.busy.wait()?;
        let Floats { stored, .. } = piece.job.floats;
        let bytes = piece.count * stored.size();
        piece.job.floats.read(piece.first, buffer.host.bytes_mut(bytes))?;
        let address = buffer.stored.address()?;
        buffer.host.upload_first(bytes, address)?;
        fill(gpu, piece, &Tensor::borrowed(gpu, address, DType::U8, &[bytes]), buffer.values.address()?)?;
        buffer.busy = gpu.mark()?;
        Ok(())
    }
}

/// Converts or quantises a piece's bytes into its place in the model. `scratch` is the address of room for its values.
fn fill(gpu: &Gpu, piece: &Piece, bytes: &Tensor, scratch: u64) -> Result<(), OpError> {
    let Piece { job, first, count, .. } = piece;
    let stored = job.floats.stored;
    let mut report = piece.report.cell(gpu, piece.place)?;
    match job.target {
        Target::Dense { address, dtype } => {
            let mut y = Tensor::borrowed(gpu, address + (first * dtype.size()) as u64, dtype, &[*count]);
            convert(bytes, stored, *first, &mut y, &mut report)
        }
        Target::Nf4 { codes, absmax } => {
            let (shape, block) = ([count / BLOCK, BLOCK], first / BLOCK);
            let mut values = Tensor::borrowed(gpu, scratch, stored.exact(), &shape);
            convert(bytes, stored, *first, &mut values, &mut report)?;
            let at =
                |address: u64, offset: usize, dtype, n| Tensor::borrowed(gpu, address + offset as u64, dtype, &[n]);
            let absmax = at(absmax, block * size_of::<f32>(), DType::F32, shape[0]);
            let codes = at(codes, first / 2, DType::U8, count / 2);
            quantize(&values, &mut Nf4Tensor { shape, codes, scales: Scales::Plain { absmax } })
        }
    }
}
