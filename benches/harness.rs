//! Timing on a GPU, and the table of results.

use kiungo::device::{DType, Device, DeviceError, Gpu, Tensor};
use kiungo::ops::OpError;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

const RUNS: usize = 21;
const WARM_UPS: usize = 3;
/// More than any cache holds.
const FLUSH_BYTES: usize = 256 << 20;

/// A matrix product's sizes, or a matrix of `n` x `k`.
#[derive(Clone, Copy, Serialize)]
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
    peer: Option<&'static str>,
    peer_ms: Option<f64>,
    /// Above 1: faster than the peer.
    ratio: Option<f64>,
    device: String,
    date: String,
}

/// A GPU and what was measured on it.
pub struct Bench {
    device: Device,
    gpu: Gpu,
    flush: Tensor,
    rows: Vec<Row>,
    rng: StdRng,
}

impl Bench {
    pub fn new(device: Device) -> anyhow::Result<Bench> {
        let Device::Cuda(gpu) = device.clone() else { anyhow::bail!("{device} is no GPU") };
        let flush = Tensor::zeros(&device, DType::U8, &[FLUSH_BYTES])?;
        Ok(Bench { device, gpu, flush, rows: Vec::new(), rng: StdRng::seed_from_u64(1) })
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
        const PERIOD: usize = (1 << 20) + 7;
        let n: usize = shape.iter().product();
        let some: Vec<f32> = StandardNormal.sample_iter(&mut self.rng).take(n.min(PERIOD)).collect();
        let values = some.iter().copied().cycle().take(n).collect();
        Ok(Tensor::from_f32(&self.device, dtype, values, shape)?)
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
        let mut times = Vec::with_capacity(RUNS);
        for i in 0..WARM_UPS + RUNS {
            // The fill also keeps the GPU busy while the launches that are timed are queued.
            self.flush.fill_byte(i as u8)?;
            let ms = self.gpu.time(&mut || run().map_err(driver_error))?;
            if i >= WARM_UPS {
                times.push(ms);
            }
        }
        times.sort_by(f64::total_cmp);
        let ms = times[RUNS / 2];
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
        };
        self.rows.push(Row {
            op,
            variant: variant.into(),
            shape,
            ms,
            tflops,
            tb_s,
            ceiling_fraction,
            peer: None,
            peer_ms: None,
            ratio: None,
            device: self.gpu.name().to_string(),
            date: today(),
        });
        Ok(())
    }
}

fn driver_error(e: OpError) -> DeviceError {
    match e {
        OpError::Driver(e) => e,
        other => DeviceError::Driver { call: "benchmark".into(), message: other.to_string() },
    }
}

/// Data-sheet peaks: dense bf16 and memory.
#[derive(Clone, Copy)]
struct Ceiling {
    tflops: f64,
    tb_s: f64,
}

fn ceiling(device: &str) -> Option<Ceiling> {
    let known = [
        ("H100", Ceiling { tflops: 989.5, tb_s: 3.35 }),
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
