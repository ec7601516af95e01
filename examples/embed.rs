//! Sentences to vectors with a model's folder, and how alike they are.
//!
//!     cargo run --release --example embed [FOLDER SENTENCE...]
//!
//! FOLDER holds a Llama in Hugging Face's layout. Without arguments it takes the built-in model, whose weights are random.

use kiungo::device::{DType, Device};
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::{Bos, Tokenizer};
use kiungo::formats::weights::{Options, load};
use kiungo::llama::config::Config;
use kiungo::llama::model::Base;
use kiungo::llama::{Layer, Parts};
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::embed::embed;
use kiungo::training::builtin;
use std::error::Error;
use std::path::PathBuf;

const SENTENCES: [&str; 3] = ["maji ni uhai", "water is life", "moto"];

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::cuda(0).unwrap_or_else(|why| {
        println!("no GPU is used: {why}");
        Device::Cpu
    });
    let temporary = tempfile::tempdir()?;
    let mut arguments = std::env::args().skip(1);
    let (folder, mut sentences) = match arguments.next() {
        Some(folder) => (PathBuf::from(folder), arguments.collect()),
        None => (builtin::write_to(temporary.path(), builtin::SEED)?.model, vec![]),
    };
    if sentences.is_empty() {
        sentences = SENTENCES.map(String::from).to_vec();
    }

    let config = Config::open(&folder)?;
    let tokenizer = Tokenizer::open(&folder, &config)?;
    let ids = sentences.iter().map(|s| tokenizer.encode(s, Bos::Add, config.max_positions).map(|e| e.ids));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();

    // Only what hidden(2) needs is read: the embedding and two blocks.
    let layer = Layer::Hidden(2.min(config.layers));
    let options = Options {
        parts: Parts { blocks: layer.blocks(&config), final_norm: false, head: false },
        base: Base::Bf16,
        compute: if device.is_cpu() { DType::F32 } else { DType::Bf16 },
        device: &device,
        positions: texts.iter().map(|t| t.len()).max().unwrap_or(1),
    };
    let model = load(&Checkpoint::open(&folder)?, &config, options, |_| {})?;
    let rows = embed(&model, None, &texts, &[layer], Pooling::MeanNoSink, |_| {})?.remove(0);

    println!("cosines at hidden({layer}) on {device}");
    for (a, sentence) in rows.rows().zip(&sentences) {
        let cosine = |b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosines: Vec<String> = rows.rows().map(|b| format!("{:6.3}", cosine(b))).collect();
        println!("{}  {sentence}", cosines.join(" "));
    }
    Ok(())
}
