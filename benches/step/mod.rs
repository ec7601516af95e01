//! Whole training steps at Llama 3 8B's shape, with random weights made on the GPU.

pub mod full;
mod profile;
pub mod word;

use crate::harness::{Bench, Shape, Work, median};
use kiungo::device::{DType, Device, Gpu, cuda};
use kiungo::formats::pairs::Pair;
use kiungo::llama::config::{Config, Projection};
use kiungo::llama::model::Options;
use kiungo::llama::random;
use kiungo::training::batch::{Group, Translations};
use kiungo::training::plan::Plan;
use kiungo::training::settings::Settings;
use kiungo::training::step::{Trainer, UNDER_WAY};
use profile::Profiler;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::ops::RangeInclusive;

/// Steps that are timed together, how often, and those before them.
const STEPS: usize = 20;
const RUNS: usize = 7;
const WARM_UPS: usize = 8;
const LEARNING_RATE: f64 = 1e-4;

/// One row of the table.
struct Case {
    op: &'static str,
    variant: &'static str,
    settings: Settings,
    /// Tokens of a text.
    lengths: RangeInclusive<usize>,
}

fn llama_3_8b() -> anyhow::Result<Config> {
    Config::named("llama-3-8b").ok_or_else(|| anyhow::anyhow!("no llama-3-8b"))
}

impl Case {
    /// Times steps that follow each other as in a run, and adds a row; with `--profile`, says where one's time goes.
    fn run(&self, bench: &mut Bench) -> anyhow::Result<()> {
        let config = llama_3_8b()?;
        let used_before = used()?;
        let (mut trainer, group) = self.trainer(bench.device(), &config)?;
        let mut steps = Steps::new(group, self.settings.batch);
        for _ in 0..WARM_UPS {
            steps.one(&mut trainer)?;
        }
        let Device::Cuda(gpu) = bench.device().clone() else { anyhow::bail!("no GPU") };
        let mut times = vec![];
        for _ in 0..RUNS {
            steps.finish(&mut trainer)?;
            let ms = gpu.time(&mut || {
                for _ in 0..STEPS {
                    steps.one(&mut trainer).map_err(|e| profile::device_error(&e))?;
                }
                Ok(())
            })?;
            times.push(ms / STEPS as f64);
        }
        steps.finish(&mut trainer)?;
        let memory = used()?.saturating_sub(used_before) as f64 / 1e9;
        let (tokens, flops) = self.work(&steps.group, &config)?;
        let shape = Shape { m: tokens, n: config.hidden_size, k: config.intermediate_size };
        bench.record(self.op, self.variant, shape, Work::Flops(flops), median(&mut times), Some(memory));
        drop((trainer, steps));
        if bench.profile { self.profile(&config) } else { Ok(()) }
    }

    /// One step, kernel by kernel.
    fn profile(&self, config: &Config) -> anyhow::Result<()> {
        let (profiler, spans) = Profiler::new(cuda::Driver::new(0)?)?;
        let device = Device::Cuda(Gpu::new(profiler));
        let (mut trainer, group) = self.trainer(&device, config)?;
        let mut steps = Steps::new(group, self.settings.batch);
        for _ in 0..WARM_UPS {
            steps.one(&mut trainer)?;
        }
        steps.finish(&mut trainer)?;
        let table = spans.of(&device, || {
            steps.one(&mut trainer)?;
            Ok(())
        })?;
        println!("{} {}, launch by launch\n{table}", self.op, self.variant);
        steps.finish(&mut trainer)
    }

    fn trainer(&self, device: &Device, config: &Config) -> anyhow::Result<(Trainer, Group)> {
        let plan = Plan::new(&self.settings, config, &[])?;
        let (parts, base) = (plan.parts, self.settings.base);
        let options = Options { parts, base, compute: DType::Bf16, device, positions: *self.lengths.end() };
        let model = random::model(config, options, 1)?;
        let group = group(config, 80 * self.settings.batch, self.lengths.clone());
        let translations = Translations::new(&group.pairs);
        let trainer = Trainer::new(model, &self.settings, &plan, &group, translations)?;
        Ok((trainer, group))
    }

    /// Tokens of a batch and FLOPs of a step, on average: those of the linear layers.
    fn work(&self, group: &Group, config: &Config) -> anyhow::Result<(usize, f64)> {
        let plan = Plan::new(&self.settings, config, &[])?;
        let tokens = group.tokens() as f64 * self.settings.batch as f64 / group.len() as f64;
        let size = |p: Projection| config.shape(p).iter().product::<usize>() as f64;
        let block: f64 = Projection::ALL.into_iter().map(size).sum();
        let mut passes = 2.0 * (plan.blocks - plan.prefix) as f64 * block;
        if plan.embedding {
            passes *= 1.5;
        } else {
            // The gradient of the lowest block's input is needed by nobody.
            passes -= [Projection::Q, Projection::K, Projection::V].into_iter().map(size).sum::<f64>();
        }
        Ok((tokens.round() as usize, 2.0 * tokens * passes))
    }
}

/// Steps over a group's batches, in order.
struct Steps {
    group: Group,
    batches: Vec<Vec<usize>>,
    next: usize,
}

impl Steps {
    fn new(group: Group, batch: usize) -> Steps {
        let pairs: Vec<usize> = (0..group.len()).collect();
        Steps { batches: pairs.chunks_exact(batch).map(<[usize]>::to_vec).collect(), group, next: 0 }
    }

    fn one(&mut self, trainer: &mut Trainer) -> anyhow::Result<()> {
        let batch = &self.batches[self.next % self.batches.len()];
        trainer.launch(&self.group, batch, self.next as u32, LEARNING_RATE)?;
        self.next += 1;
        while trainer.under_way() > UNDER_WAY / 2 {
            let report = trainer.wait()?;
            anyhow::ensure!(report.is_none_or(|r| r.is_finite()), "the loss is not a number: {report:?}");
        }
        Ok(())
    }

    fn finish(&mut self, trainer: &mut Trainer) -> anyhow::Result<()> {
        while trainer.wait()?.is_some() {}
        Ok(())
    }
}

/// Pairs of random tokens.
fn group(config: &Config, pairs: usize, lengths: RangeInclusive<usize>) -> Group {
    let mut rng = StdRng::seed_from_u64(1);
    let mut text = || -> Vec<u32> {
        let length = rng.random_range(lengths.clone());
        (0..length).map(|_| rng.random_range(0..config.vocab_size as u32)).collect()
    };
    let pair = |i| Pair { source: format!("source {i}"), target: format!("target {i}") };
    Group {
        pairs: (0..pairs).map(pair).collect(),
        sources: (0..pairs).map(|_| text()).collect(),
        targets: (0..pairs).map(|_| text()).collect(),
    }
}

/// Bytes of the card that somebody holds.
fn used() -> anyhow::Result<usize> {
    let card = cuda::card(0)?;
    Ok(card.total - card.free)
}
