//! What a plan says of memory, against what is held.

use crate::support::gpus;
use kiungo::device::{DType, Device, Memory};
use kiungo::formats::random::{Options as Files, write};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::weights::{Options, Transfer, load_with};
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::llama::plan::{During, Ledger, Way, is_read, weight_bytes};
use kiungo::llama::{Layer, Parts, random};
use kiungo::ops::convert::Stored;
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::embed::{embed, memory};
use std::path::Path;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 136, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 37, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;
/// One thread: of several, a late one may find nothing left to read when the first has given its memory back.
const TRANSFER: Transfer = Transfer { threads: 1, buffers: 4, bytes: 4096 };

fn config() -> Config {
    Config::parse(Path::new("config.json"), CONFIG).unwrap()
}

#[test]
fn weights_take_what_is_said() {
    let config = config();
    for base in [Base::F32, Base::Bf16, Base::Nf4, Base::Nf4Double] {
        for parts in [
            Parts { blocks: 3, final_norm: true, head: true },
            Parts { blocks: 1, final_norm: false, head: false },
            Parts { blocks: 0, final_norm: true, head: false },
        ] {
            let options = Options { parts, base, compute: DType::F32, device: &Device::Cpu, positions: 8 };
            let model = random::model(&config, options, 1).unwrap();
            assert_eq!(weight_bytes(&config, parts, base), model.bytes(), "{base}, {parts:?}");
        }
    }
}

/// From the first byte read to the last vector fetched.
#[test]
fn the_most_that_is_held_is_within_a_twentieth_of_the_plan() {
    let config = config();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("model");
    let files = Files { seed: 1, stored: Stored::Bf16, shard_bytes: 1 << 20, device: &Device::Cpu };
    write(&folder, &config, files, |_| {}).unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let texts: Vec<Vec<u32>> = (0..9).map(|i| (0..10 + i).map(|t| (i * 5 + t) % 37).collect()).collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for base in [Base::Bf16, Base::Nf4, Base::Nf4Double] {
        for layers in [vec![Layer::Hidden(1)], vec![Layer::Hidden(2), Layer::Final]] {
            for device in gpus() {
                let Device::Cuda(gpu) = &device else { continue };
                let before = gpu.memory().unwrap();
                assert_eq!(before.held, before.peak, "{device} has been used");
                let top = layers.iter().map(|l| l.blocks(&config)).max().unwrap();
                let parts = Parts { blocks: top, final_norm: layers.contains(&Layer::Final), head: false };
                let mut ledger = Ledger::of_model(&config, parts, base, 18);
                let reading = TRANSFER.device_bytes(&checkpoint, &config, parts, base);
                ledger.add("reader", reading, During::Loading);
                for (what, bytes) in memory(&config, DType::Bf16, 0, &device, &texts, layers.len()) {
                    ledger.add(what, bytes, During::Running);
                }
                let options = Options { parts, base, compute: DType::Bf16, device: &device, positions: 18 };
                let model = load_with(&checkpoint, &config, options, TRANSFER, |_| {}).unwrap();
                let what = format!("{base} at {layers:?} on {device}");
                let close = |found: usize, expected: usize, when: &str| {
                    let error = (found as f64 - expected as f64).abs() / expected as f64;
                    assert!(error <= 0.05, "{what}: {found} bytes {when}, {expected} expected: {ledger:?}");
                };
                close(gpu.memory().unwrap().peak - before.held, ledger.sums()[0], "while loading");
                embed(&model, None, &texts, &layers, Pooling::MeanNoSink, |_| {}).unwrap();
                close(gpu.memory().unwrap().peak - before.held, ledger.peak(), "at most");
            }
        }
    }
}

#[test]
fn what_has_no_room_is_refused_with_the_least_ways_out() {
    let mut ledger = Ledger::default();
    ledger.add("weights", 60, During::Always);
    ledger.add("reading", 50, During::Loading);
    ledger.add("states", 40, During::Running);
    assert_eq!((ledger.sums(), ledger.peak()), ([110, 100], 110));
    let memory = |free| Memory { free, total: 120, held: 5, peak: 0 };
    let way = |change: &str, peak| Way { change: change.into(), peak };
    let ways = || vec![way("--more", 200), way("--base nf4", 70), way("--batch 4", 90), way("--layers 1", 20)];
    ledger.fit(memory(110), || unreachable!("there is room")).unwrap();
    let said = |free, ways| ledger.fit(memory(free), || ways).unwrap_err().to_string();
    let start = "not enough GPU memory: 110 bytes are needed, and";
    assert_eq!(
        said(100, ways()),
        format!(
            "{start} 100 of 120 are free (15 are held by other programs and the driver). What would do: --base nf4 (70 bytes), or --batch 4 (90 bytes)"
        )
    );
    assert_eq!(
        said(30, ways()),
        format!(
            "{start} 30 of 120 are free (85 are held by other programs and the driver). What would do: --layers 1 (20 bytes)"
        )
    );
    assert_eq!(
        said(10, ways()),
        format!(
            "{start} 10 of 120 are free (105 are held by other programs and the driver). Nothing alone would do; what comes closest: --layers 1 (20 bytes), or \
             --base nf4 (70 bytes)"
        )
    );
    assert_eq!(said(10, vec![]), format!("{start} 10 of 120 are free (105 are held by other programs and the driver)"));
}

#[test]
fn only_what_is_needed_is_read() {
    let parts = Parts { blocks: 2, final_norm: false, head: false };
    for (name, needed) in [
        ("model.embed_tokens.weight", true),
        ("model.layers.1.mlp.up_proj.weight", true),
        ("model.layers.1.mlp.up_proj.weight.absmax", true),
        ("model.layers.2.mlp.up_proj.weight", false),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", false),
        ("model.norm.weight", false),
        ("lm_head.weight", false),
    ] {
        assert_eq!(is_read(parts, name), needed, "{name}");
    }
}
