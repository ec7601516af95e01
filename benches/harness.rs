//! Timing on a GPU, and the table of results.

use kiungo::device::{DType, Device, DeviceError, Gpu, Tensor};
use kiungo::ops::OpError;
use kiungo::ops::gemm::{Layout, gemm};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Before each row, as peers.py has it: a card that has computed for a while runs slower, and a row should not depend on those before
/// it. Head's gradients at 512 tokens took 774 us without, 677 after a pause.
const REST: Duration = Duration::from_millis(100);
const RUNS: usize = 21;
const WARM_UPS: usize = 3;
/// Events around one op also count its launch, some 4 us. Ops that take less than this are timed in a graph.
const SHORT_MS: f64 = 0.3;
/// Flushes and ops in such a graph, and how often it is replayed.
const REPEATS: usize = 12;
const REPLAYS: usize = 7;
/// A matrix of more bytes than any cache holds.
const FLUSH: [usize; 2] = [32 << 10, 4096];

/// `m` tokens, and a weight of `n` outputs and `k` inputs where there is one; else `n` columns.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// What a run computes and moves.
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes read and written at least.
    Bytes(f64),
    /// Bytes that come from the host.
    HostBytes(f64),
}

/// What a peer took on the same GPU, as `benches/peers/peers.py` writes it.
#[derive(Clone, Deserialize)]
pub struct Peer {
    op: String,
    variant: String,
    shape: Shape,
    #[serde(flatten)]
    took: Took,
}

/// Who a peer is, its time, and what it held of the card at most, GB, where the row is of a whole step.
#[derive(Clone, Serialize, Deserialize)]
struct Took {
    peer: String,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_gb: Option<f64>,
}

/// One line of the table.
#[derive(Serialize)]
pub struct Row {
    op: &'static str,
    variant: String,
    shape: Shape,
    ms: f64,
    tflops: Option<f64>,
    tb_s: Option<f64>,
    ceiling_fraction: Option<f64>,
    peer: Option<String>,
    peer_ms: Option<f64>,
    /// Above 1: faster than the peer.
    ratio: Option<f64>,
    /// Memory of the card in use, GB (1e9 bytes), where the row is of a whole step.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_gb: Option<f64>,
    /// All peers where there are several or their memory is known, the fastest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<Took>,
    device: String,
    date: String,
}

/// A GPU and what was measured on it.
pub struct Bench {
    device: Device,
    gpu: Gpu,
    flush: [Tensor; 3],
    peers: Vec<Peer>,
    rows: Vec<Row>,
    rng: StdRng,
    /// Whether steps say where their time goes.
    pub profile: bool,
    /// A folder of a checkpoint to load.
    pub checkpoint: Option<PathBuf>,
}

impl Bench {
    /// For a GPU, beside what `peers` measured on it.
    pub fn new(device: Device, peers: Vec<Peer>) -> anyhow::Result<Bench> {
        let Device::Cuda(gpu) = device.clone() else { anyhow::bail!("{device} is no GPU") };
        let zeros = |shape: [usize; 2]| Tensor::zeros(&device, DType::Bf16, &shape);
        let flush = [zeros([1, FLUSH[1]])?, zeros(FLUSH)?, zeros([1, FLUSH[0]])?];
        Ok(Bench {
            device,
            gpu,
            flush,
            peers,
            rows: Vec::new(),
            rng: StdRng::seed_from_u64(1),
            profile: false,
            checkpoint: None,
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Standard normal values.
    pub fn normal(&mut self, dtype: DType, shape: &[usize]) -> anyhow::Result<Tensor> {
        // A long period of distinct values is as good as all distinct, and quicker to make.
        const PERIOD: usize = 1 << 20;
        let n: usize = shape.iter().product();
        let first = n.min(PERIOD);
        let values: Vec<f32> = StandardNormal.sample_iter(&mut self.rng).take(first).collect();
        let first = Tensor::from_f32(&self.device, dtype, values, &[first, 1])?;
        let mut all = Tensor::zeros(&self.device, dtype, &[n, 1])?;
        for at in (0..n).step_by(PERIOD) {
            all.copy_rows(at, &first, 0, PERIOD.min(n - at))?;
        }
        Ok(all.reshape(shape)?)
    }

    /// Times an op and adds a row.
    pub fn run(
        &mut self,
        op: &'static str,
        variant: impl Into<String>,
        shape: Shape,
        work: Work,
        mut run: impl FnMut() -> kiungo::ops::Result,
    ) -> anyhow::Result<()> {
        std::thread::sleep(REST);
        let mut times = Vec::with_capacity(RUNS);
        for i in 0..WARM_UPS + RUNS {
            flush(&mut self.flush)?;
            let ms = self.gpu.time(&mut || run().map_err(driver_error))?;
            if i >= WARM_UPS {
                times.push(ms);
            }
        }
        let mut ms = median(&mut times);
        if ms < SHORT_MS
            && let Some(in_graph) = self.time_in_graph(&mut run)?
        {
            ms = in_graph;
        }
        self.record(op, variant, shape, work, ms, None);
        Ok(())
    }

    /// Milliseconds of an op: what a graph of flushes and ops takes more than one of flushes alone. None where nothing is
    /// recorded.
    fn time_in_graph(&mut self, run: &mut dyn FnMut() -> kiungo::ops::Result) -> anyhow::Result<Option<f64>> {
        let Bench { gpu, flush: tensors, .. } = self;
        let mut graph = |with_op: bool| {
            let recording = gpu.record(&mut || {
                for _ in 0..REPEATS {
                    flush(tensors).map_err(driver_error)?;
                    if with_op {
                        run().map_err(driver_error)?;
                    }
                }
                Ok(())
            })?;
            let Some(recording) = recording else { return Ok(None) };
            let times: Result<Vec<f64>, DeviceError> =
                (0..REPLAYS).map(|_| gpu.time(&mut || recording.replay())).collect();
            Ok::<_, DeviceError>(Some(median(&mut times?)))
        };
        let (Some(both), Some(flushes)) = (graph(true)?, graph(false)?) else { return Ok(None) };
        Ok(Some((both - flushes) / REPEATS as f64))
    }

    /// Times a whole job by the clock on the wall, `runs` times after a first one, and adds a row of the median.
    pub fn job(
        &mut self,
        op: &'static str,
        variant: impl Into<String>,
        shape: Shape,
        work: Work,
        runs: usize,
        mut run: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut times = Vec::with_capacity(runs);
        for i in 0..=runs {
            let start = Instant::now();
            run()?;
            self.gpu.synchronize()?;
            if i > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        self.record(op, variant, shape, work, median(&mut times), None);
        Ok(())
    }

    /// Adds a row for what was timed elsewhere.
    pub fn record(
        &mut self,
        op: &'static str,
        variant: impl Into<String>,
        shape: Shape,
        work: Work,
        ms: f64,
        memory_gb: Option<f64>,
    ) {
        let ceiling = ceiling(self.gpu.name());
        let (tflops, tb_s, ceiling_fraction) = match work {
            Work::Flops(flops) => {
                let tflops = flops / ms / 1e9;
                (Some(tflops), None, ceiling.map(|c| tflops / c.tflops))
            }
            Work::Bytes(bytes) => {
                let tb_s = bytes / ms / 1e9;
                (None, Some(tb_s), ceiling.map(|c| tb_s / c.tb_s))
            }
            Work::HostBytes(bytes) => (None, Some(bytes / ms / 1e9), None),
        };
        let variant = variant.into();
        let same = self.peers.iter().filter(|p| p.op == op && p.variant == variant && p.shape == shape);
        let mut peers: Vec<Took> = same.map(|p| p.took.clone()).collect();
        peers.sort_by(|a, b| a.ms.total_cmp(&b.ms));
        let peer = peers.first().cloned();
        if peers.len() < 2 && peers.iter().all(|p| p.memory_gb.is_none()) {
            peers.clear();
        }
        self.rows.push(Row {
            op,
            shape,
            ms,
            tflops,
            tb_s,
            ceiling_fraction,
            peer_ms: peer.as_ref().map(|p| p.ms),
            ratio: peer.as_ref().map(|p| p.ms / ms),
            peer: peer.map(|p| p.peer),
            peers,
            memory_gb,
            variant,
            device: self.gpu.name().to_string(),
            date: today(),
        });
    }
}

/// Leaves nothing useful in the caches, and nothing that must be written back while an op is timed: reads more than they
/// hold. It also keeps the GPU busy while the launches that are timed are queued.
fn flush([x, w, y]: &mut [Tensor; 3]) -> kiungo::ops::Result {
    gemm(Layout::Nt, x, w, y, false)
}

/// The middle one.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn driver_error(e: OpError) -> DeviceError {
    match e {
        OpError::Driver(e) => e,
        other => DeviceError::Driver { call: "benchmark".into(), message: other.to_string() },
    }
}

/// What a kernel can reach: the data sheet's dense bf16 peak; of memory, on an H100 what reading 4 GiB reached (writing
/// them reached 3.30), else the data sheet's peak.
#[derive(Clone, Copy)]
struct Ceiling {
    tflops: f64,
    tb_s: f64,
}

fn ceiling(device: &str) -> Option<Ceiling> {
    let known = [
        ("H100", Ceiling { tflops: 989.5, tb_s: 3.08 }),
        ("H200", Ceiling { tflops: 989.5, tb_s: 4.8 }),
        ("A100", Ceiling { tflops: 312.0, tb_s: 2.04 }),
    ];
    known.into_iter().find(|(name, _)| device.contains(name)).map(|(_, ceiling)| ceiling)
}

/// The results as text.
pub fn table(bench: &Bench) -> String {
    let number = |x: Option<f64>, digits: usize| x.map_or("-".into(), |x| format!("{x:.digits$}"));
    let mut text = format!("{} on {}\n", env!("CARGO_PKG_NAME"), bench.gpu.name());
    text += &format!(
        "{:<10} {:<16} {:>6} {:>7} {:>6} {:>10} {:>9} {:>7} {:>9} {:>10} {:>6}\n",
        "op", "variant", "m", "n", "k", "ms", "TFLOP/s", "TB/s", "of peak", "peer ms", "ratio"
    );
    for r in &bench.rows {
        let Shape { m, n, k } = r.shape;
        text += &format!(
            "{:<10} {:<16} {m:>6} {n:>7} {k:>6} {:>10.4} {:>9} {:>7} {:>9} {:>10} {:>6}\n",
            r.op,
            r.variant,
            r.ms,
            number(r.tflops, 1),
            number(r.tb_s, 3),
            number(r.ceiling_fraction, 3),
            number(r.peer_ms, 4),
            number(r.ratio, 2),
        );
        for Took { peer, ms, memory_gb } in &r.peers {
            let memory = memory_gb.map_or(String::new(), |gb| format!(", {gb:.1} GB"));
            text += &format!("{:>28} {ms:.3} ms{memory}: {peer}\n", "beside it");
        }
    }
    text
}

/// The date in UTC, `YYYY-MM-DD`.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86400) as i64;
    // Days to civil date, counting years from March so that the leap day comes last.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
