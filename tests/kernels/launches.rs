//! What is launched on cards that are not here, by whole steps of a Llama 3 8B and by single ops: each kernel is in the machine
//! code that such a card runs, takes that struct, and has room there.
//!
//! Values are another matter: the emulator's, for kernels of every card, and a GPU's.

use super::sass::dump;
use crate::support::Paper;
use kiungo::device::{DType, Device, Executor, Gpu, Launch, Tensor};
use kiungo::formats::pairs::Pair;
use kiungo::llama::Layer;
use kiungo::llama::config::Config;
use kiungo::llama::encode::Encoder;
use kiungo::llama::model::{Base, Model, Options, Parts};
use kiungo::llama::random;
use kiungo::ops::adamw::Precision;
use kiungo::ops::gemm::{Layout, gemm};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::nf4::Nf4Tensor;
use kiungo::training::batch::{Group, Translations};
use kiungo::training::plan::Plan;
use kiungo::training::settings::{Dequantize, Keep, Master, Method, Preset, Settings, When};
use kiungo::training::step::Trainer;
use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

/// What the compiler says of a kernel.
struct Usage {
    registers: u32,
    shared: u32,
    /// Bytes of constants: what the driver tells every kernel, and the parameters.
    constants: usize,
}

/// By the target's name and the kernel's.
static USAGE: LazyLock<HashMap<(String, String), Usage>> = LazyLock::new(|| {
    let mut found = HashMap::new();
    for (_, usage) in dump("-res-usage") {
        for cubin in usage.split("arch = ").skip(1) {
            let arch = cubin.lines().next().unwrap_or_default().trim();
            let lines: Vec<&str> = cubin.lines().map(str::trim).collect();
            for pair in lines.windows(2) {
                let Some(kernel) = pair[0].strip_prefix("Function ").and_then(|k| k.strip_suffix(':')) else {
                    continue;
                };
                let value = |name: &str| {
                    let field = pair[1].split_whitespace().find_map(|field| field.strip_prefix(name)).unwrap();
                    field.trim_start_matches(':').parse::<u32>().unwrap()
                };
                let constants = value("CONSTANT[0]") as usize;
                let usage = Usage { registers: value("REG"), shared: value("SHARED"), constants };
                found.insert((arch.to_string(), kernel.to_string()), usage);
            }
        }
    }
    found
});

/// Cards, and the machine code that they run.
const CARDS: [(u32, u32, &str); 3] = [(90, 132, "sm_90a"), (80, 108, "sm_80"), (89, 128, "sm_80")];

fn check(card: &Paper, code: &str, launch: &Launch) {
    let Launch { module, kernel, grid, block, shared_bytes, cluster, alone: _, params, tensor_maps } = launch;
    let what = format!("{module}.cu, {kernel} with grid {grid:?} of {block:?} on {code}");
    let usage = USAGE.get(&(code.to_string(), kernel.to_string())).unwrap_or_else(|| panic!("{what}: no such kernel"));
    let of_driver: usize = if code == "sm_90a" { 0x210 } else { 0x160 };
    // Structs with tensor maps begin at multiples of 64.
    let first = [of_driver, of_driver.next_multiple_of(64)];
    let sizes = first.map(|first| first + params.len());
    assert!(sizes.contains(&usage.constants), "{what}: {sizes:?} bytes of constants, not {}", usage.constants);
    let threads: u32 = block.iter().product();
    // Registers come by eight a thread.
    assert!(
        threads <= 1024 && threads * usage.registers.next_multiple_of(8) <= 65536,
        "{what}: {} registers",
        usage.registers
    );
    // On Hopper the compiler counts the KB that the system keeps.
    let declared = if code == "sm_90a" { usage.shared.saturating_sub(1024) } else { usage.shared };
    let shared = (shared_bytes + declared) as usize;
    assert!(shared <= card.shared_memory(), "{what}: {shared} bytes of shared memory");
    assert!(grid.iter().all(|&blocks| blocks > 0) && grid[1] <= 65535 && grid[2] <= 65535, "{what}");
    assert!(*cluster <= 8 && grid[0].is_multiple_of(*cluster), "{what}: clusters of {cluster}");
    for (offset, map) in tensor_maps {
        let [_, columns] = map.shape;
        let [rows, width] = map.block;
        let fits = map.address.is_multiple_of(16) && (columns * 2).is_multiple_of(16) && offset.is_multiple_of(64);
        let is_box = (1..=256).contains(&rows) && [16, 32, 64].contains(&width) && map.shape[0] > 0;
        assert!(fits && is_box && offset + 128 <= params.len(), "{what}: {map:?} at {offset}");
    }
}

/// Runs `work` on every card; the files whose kernels were launched.
fn on_paper(work: impl Fn(&Device)) -> BTreeSet<&'static str> {
    let mut files = BTreeSet::new();
    if USAGE.is_empty() {
        return files; // no kernels, or nothing to look at them with: that was said
    }
    for (capability, multiprocessors, code) in CARDS {
        let card = Paper::new(capability, multiprocessors);
        work(&Device::Cuda(Gpu::new(card.clone())));
        let launches = card.take();
        assert!(!launches.is_empty());
        launches.iter().for_each(|launch| check(&card, code, launch));
        files.extend(launches.iter().map(|launch| launch.module));
    }
    files
}

/// Fails where one of these files is not among those that were launched.
fn include(launched: &BTreeSet<&str>, files: &[&str]) {
    let missing: Vec<_> = files.iter().filter(|file| !launched.is_empty() && !launched.contains(*file)).collect();
    assert!(missing.is_empty(), "{missing:?} are never launched, these are: {launched:?}");
}

fn llama() -> Config {
    Config::named("llama-3-8b").unwrap()
}

fn model(device: &Device, parts: Parts, base: Base) -> Model {
    random::model(&llama(), Options { parts, base, compute: DType::Bf16, device, positions: 512 }, 1).unwrap()
}

/// Pairs of `tokens` tokens each.
fn group(pairs: usize, tokens: usize) -> Group {
    let texts = || (0..pairs).map(|i| (0..tokens).map(|t| (i * tokens + t) as u32 % 128_000).collect()).collect();
    let pair = |i| Pair { source: format!("source {i}"), target: format!("target {i}") };
    Group { pairs: (0..pairs).map(pair).collect(), sources: texts(), targets: texts() }
}

/// Two steps of these settings, of texts of `tokens` tokens.
fn steps(settings: &Settings, tokens: usize) -> BTreeSet<&'static str> {
    on_paper(|device| {
        let plan = Plan::new(settings, &llama(), &[]).unwrap();
        let group = group(settings.batch, tokens);
        let translations = Translations::new(&group.pairs);
        let model = model(device, plan.parts, settings.base);
        let mut trainer = Trainer::new(model, settings, &plan, &group, translations).unwrap();
        let pairs: Vec<usize> = (0..settings.batch).collect();
        for step in 0..2 {
            trainer.launch(&group, &pairs, step, 1e-4).unwrap();
        }
    })
}

#[test]
fn adapters_on_word_pairs() {
    let config = llama();
    let paper = Settings { target: Layer::Hidden(2), ..Settings::preset(Preset::Paper, Method::Lora, &config) };
    let clean = Settings::preset(Preset::Clean, Method::Lora, &config);
    let mut files = BTreeSet::new();
    for settings in [&paper, &clean] {
        for base in [Base::Bf16, Base::Nf4, Base::Nf4Double] {
            for dequantize in [Dequantize::EachStep, Dequantize::Once] {
                for (batch, tokens, rank) in [(2, 1, 16), (8, 4, 8), (48, 8, 16), (64, 32, 64)] {
                    // Without dropout adapters and large products share a launch.
                    let dropout = if rank == 64 { 0.0 } else { settings.dropout };
                    let settings = Settings { base, dequantize, batch, rank, dropout, ..settings.clone() };
                    files.extend(steps(&settings, tokens));
                }
            }
        }
    }
    include(
        &files,
        &[
            "lora_sm90",
            "lora_sm80",
            "linear_sm90",
            "linear_gemm_sm90",
            "linear_backward_sm90",
            "contrast",
            "infonce",
            "triplet",
        ],
    );
}

#[test]
fn all_weights() {
    let config = llama();
    let full =
        Settings { target: Layer::Final, base: Base::Bf16, ..Settings::preset(Preset::Clean, Method::Full, &config) };
    let mut files = BTreeSet::new();
    for (moments, update, master, clip) in [
        (Precision::Blocks8, When::AtOnce, Master::None, None),
        (Precision::Blocks8, When::AtOnce, Master::None, Some(1.0)),
        (Precision::Bf16, When::AtOnce, Master::None, None),
        (Precision::F32, When::Together, Master::None, Some(1.0)),
    ] {
        for (batch, tokens, keep) in [(4, 8, Keep::All), (4, 300, Keep::States)] {
            let settings = Settings { moments, update, master, clip, batch, keep, ..full.clone() };
            files.extend(steps(&settings, tokens));
        }
    }
    include(
        &files,
        &[
            "adamw_8bit",
            "adamw_linear",
            "adamw_linear_sm90",
            "adamw",
            "gemm_sm90",
            "gemm_sm80",
            "attention_short_sm80",
            "attention_backward_sm90",
        ],
    );
}

#[test]
fn passages() {
    for base in [Base::Bf16, Base::Nf4] {
        on_paper(|device| {
            let model = model(device, Parts { blocks: 2, final_norm: false, head: false }, base);
            let texts: Vec<Vec<u32>> = (1..60).map(|i| vec![7; i * 4]).collect();
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let layers = [Layer::Hidden(0), Layer::Hidden(2)];
            let mut encoder = Encoder::new(&model, None, Encoder::budget(device, &texts)).unwrap();
            encoder.run(&texts, &layers, |_| Ok(())).unwrap();
        });
    }
}

#[test]
fn products() {
    let mut files = BTreeSet::new();
    let zeros = |device: &Device, shape: [usize; 2]| Tensor::zeros(device, DType::Bf16, &shape).unwrap();
    for m in [1, 7, 16, 33, 64, 128, 200, 512, 768, 1024, 4096, 16384] {
        for [n, k] in [[4096, 4096], [1024, 4096], [14336, 4096], [4096, 14336], [128_256, 4096], [576, 192], [40, 72]]
        {
            files.extend(on_paper(|device| {
                for (layout, a, b) in
                    [(Layout::Nt, [m, k], [n, k]), (Layout::Nn, [m, k], [k, n]), (Layout::Tn, [k, m], [k, n])]
                {
                    let (a, b, mut c) = (zeros(device, a), zeros(device, b), zeros(device, [m, n]));
                    gemm(layout, &a, &b, &mut c, false).unwrap();
                }
                if k % 64 == 0 && n < 100_000 {
                    for double in [false, true] {
                        let weight = Weight::Nf4(Nf4Tensor::quantize(&zeros(device, [n, k]), double).unwrap());
                        let (x, dy) = (zeros(device, [m, k]), zeros(device, [m, n]));
                        linear::forward(&x, &weight, &mut zeros(device, [m, n])).unwrap();
                        linear::backward_input(&dy, &weight, &mut zeros(device, [m, k]), false).unwrap();
                    }
                }
            }));
        }
    }
    include(&files, &["gemm_sm90", "gemm_sm80", "linear_few", "linear", "linear_backward"]);
    include(&files, &["linear_gemm_sm90", "linear_gemm_backward_sm90"]);
}
