//! Weights to a GPU, piece by piece through pinned memory.
//!
//! The calling thread walks the model from the bottom up, checks and allocates each tensor, and then hands out pieces.
//! Threads, each with a stream of its own, take one piece after another: read the file into pinned memory, copy that to
//! the GPU, convert or quantise it there. A thread reads into one buffer while the copy engine empties another.

use super::{LoadError, Options};
use crate::device::{DType, Device, DeviceError, Gpu, Mark, Pinned, Tensor};
use crate::formats::nf4;
use crate::formats::safetensors::{Checkpoint, Extent};
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
    /// Three threads for four cores, up to 12, each with two buffers of 2 MiB: small, for pinning memory takes time, and
    /// large enough that what a copy costs beside its bytes does not show. The driver and who hands out pieces need
    /// cores of their own: on 16 of them, 12 threads read 16 GB in 0.44 s where 16 take 0.47 to 0.51.
    fn default() -> Transfer {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Transfer { threads: (cores * 3).div_ceil(4).min(12), buffers: 2, bytes: 2 << 20 }
    }
}

impl Transfer {
    /// Bytes that reading takes on the GPU beside the weights themselves.
    pub fn device_bytes(&self, checkpoint: &Checkpoint, config: &Config, parts: Parts, base: Base) -> usize {
        let scratch = if base.is_quantised() { scratch_bytes(checkpoint, *self) } else { 0 };
        let buffers =
            self.threads.max(1) * self.buffers.max(1) * (Transfer::buffer(self.bytes) + Transfer::buffer(scratch));
        let linear = config.block_parameters() - 2 * config.hidden_size;
        let absmax = if base == Base::Nf4Double { parts.blocks * linear / BLOCK * size_of::<f32>() } else { 0 };
        buffers + absmax
    }

    /// A buffer holds a block of NF4 at least, and keeps the next one aligned.
    fn buffer(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(BLOCK * size_of::<f32>())
    }

    /// Values of a piece, of `size` bytes each: whole blocks of NF4.
    fn values(&self, size: usize) -> usize {
        (self.bytes / size / BLOCK).max(1) * BLOCK
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
    extent: Extent<'a>,
    target: Target,
}

/// Where values go, and what they are in the file: device addresses of a tensor that the model holds.
#[derive(Clone, Copy)]
enum Target {
    /// Bytes, as they are.
    Codes {
        address: u64,
    },
    Dense {
        stored: Stored,
        address: u64,
        dtype: DType,
    },
    Nf4 {
        stored: Stored,
        codes: u64,
        absmax: u64,
    },
}

impl Target {
    /// Bytes of a value in the file.
    fn size(self) -> usize {
        match self {
            Target::Codes { .. } => 1,
            Target::Dense { stored, .. } | Target::Nf4 { stored, .. } => stored.size(),
        }
    }

    /// The type that values must be finite in.
    fn dtype(self) -> DType {
        match self {
            Target::Codes { .. } => DType::U8,
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
    fn add(&mut self, name: &str, target: Target) -> Result<(), LoadError> {
        let extent = self.checkpoint.extent(name)?;
        self.jobs.push(Arc::new(Job { name: name.into(), extent, target }));
        Ok(())
    }

    /// The type of a tensor of floats that must have this shape.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored, LoadError> {
        self.checkpoint.expect_shape(name, shape)?;
        Ok(self.checkpoint.floats(name)?.stored)
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
        let stored = self.stored(name, shape)?;
        let tensor = Tensor::uninitialized(self.options.device, dtype, shape)?;
        self.add(name, Target::Dense { stored, address: tensor.address()?, dtype })?;
        Ok(tensor)
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, LoadError> {
        let Options { base, device, .. } = self.options;
        // What bitsandbytes left out of the quantisation is dense in such a checkpoint too.
        if nf4::is_quantised(self.checkpoint, name) {
            let scales = nf4::scales(self.checkpoint, name, shape, device)?;
            let codes = Tensor::uninitialized(device, DType::U8, &[shape[0] * shape[1] / 2])?;
            self.add(name, Target::Codes { address: codes.address()? })?;
            return Ok(Weight::Nf4(Nf4Tensor { shape, codes, scales }));
        }
        if !base.is_quantised() {
            return Ok(Weight::Dense(self.dense(name, &shape, base.dtype())?));
        }
        let stored = self.stored(name, &shape)?;
        let weight = Nf4Tensor::empty(device, shape, base == Base::Nf4Double)?;
        let absmax = match &weight.scales {
            Scales::Plain { absmax } => absmax.address()?,
            Scales::Double { codes, .. } => {
                let absmax = Tensor::uninitialized(device, DType::F32, codes.shape())?;
                self.absmax.entry(name.into()).or_insert(absmax).address()?
            }
        };
        self.add(name, Target::Nf4 { stored, codes: weight.codes.address()?, absmax })?;
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
        let (step, all) = (transfer.values(job.target.size()), job.extent.bytes / job.target.size());
        for first in (0..all).step_by(step) {
            let count = step.min(all - first);
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

/// A thread's stream and buffers: few allocations, for each takes its time.
struct Lane {
    gpu: Gpu,
    host: Pinned,
    /// For each buffer its bytes on the GPU, and the values to quantise.
    device: Tensor,
    /// Bytes of both.
    sizes: [usize; 2],
    /// Behind the launches that use each buffer.
    busy: Vec<Mark>,
    next: usize,
}

impl Lane {
    fn new(gpu: Gpu, transfer: Transfer, scratch: usize) -> Result<Lane, DeviceError> {
        let (buffers, sizes) = (transfer.buffers.max(1), [transfer.bytes, scratch].map(Transfer::buffer));
        let device = Device::Cuda(gpu.clone());
        Ok(Lane {
            host: Pinned::new(&gpu, buffers * sizes[0])?,
            device: Tensor::uninitialized(&device, DType::U8, &[buffers * (sizes[0] + sizes[1])])?,
            busy: (0..buffers).map(|_| Mark::passed()).collect(),
            gpu,
            sizes,
            next: 0,
        })
    }

    /// Reads a piece and queues what the GPU does with it.
    fn send(&mut self, piece: &Piece) -> Result<(), LoadError> {
        let Lane { gpu, host, device, sizes: [stored, scratch], busy, next } = self;
        let place = *next % busy.len();
        *next += 1;
        let (at, address) = (place * *stored, device.address()? + (place * (*stored + *scratch)) as u64);
        busy[place].wait()?;
        let size = piece.job.target.size();
        let bytes = piece.count * size;
        piece.job.extent.read(piece.first * size, host.bytes_mut(at, bytes))?;
        let address = match piece.job.target {
            Target::Codes { address } => address + piece.first as u64,
            _ => address,
        };
        host.upload(at, bytes, address)?;
        fill(gpu, piece, &Tensor::borrowed(gpu, address, DType::U8, &[bytes]), address + *stored as u64)?;
        busy[place] = gpu.mark()?;
        Ok(())
    }
}

/// Converts or quantises a piece's bytes into its place in the model. `scratch` is the address of room for its values.
fn fill(gpu: &Gpu, piece: &Piece, bytes: &Tensor, scratch: u64) -> Result<(), OpError> {
    let Piece { job, first, count, .. } = piece;
    let mut report = piece.report.cell(gpu, piece.place)?;
    match job.target {
        // They are where they belong.
        Target::Codes { .. } => Ok(()),
        Target::Dense { stored, address, dtype } => {
            let mut y = Tensor::borrowed(gpu, address + (first * dtype.size()) as u64, dtype, &[*count]);
            convert(bytes, stored, *first, &mut y, &mut report)
        }
        Target::Nf4 { stored, codes, absmax } => {
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
