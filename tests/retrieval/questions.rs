use crate::support::assert_close;
use kiungo::device::{DType, Device};
use kiungo::formats::collection::Collection;
use kiungo::formats::safetensors::Checkpoint;
use kiungo::formats::tokenizer::{Bos, Encoding, Tokenizer};
use kiungo::formats::weights::{Options, load};
use kiungo::llama::config::Config;
use kiungo::llama::model::{Base, Model};
use kiungo::llama::{Layer, Parts};
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::embed::{Reading, states};
use kiungo::retrieval::questions::Questions;
use kiungo::training::builtin;
use serde_json::json;
use std::fs;
use std::path::Path;

fn model(folder: &Path) -> (Model, Tokenizer) {
    let config = Config::open(folder).unwrap();
    let tokenizer = Tokenizer::open(folder, &config).unwrap();
    let parts = Parts { blocks: config.layers, final_norm: true, head: false };
    let options = Options { parts, base: Base::F32, compute: DType::F32, device: &Device::Cpu, positions: 64 };
    (load(&Checkpoint::open(folder).unwrap(), &config, options, |_| {}).unwrap(), tokenizer)
}

/// A paragraph of three sentences, of which the last does not fit beside the others, nor alone.
fn sentences(folder: &Path) -> Collection {
    let sentences = ["maji ni uhai.", "moto na maji.", "water is life and fire is not."];
    let context = sentences.join(" ");
    let breaks = [[0, 13], [14, 27], [28, context.len()]];
    let qas = json!([{"id": "a", "question": "moto?", "answers": [{"text": "moto", "answer_start": 14}]}]);
    let file = json!({"data": [{"paragraphs": [{"context": context, "sentences": sentences, "sentence_breaks": breaks, "qas": qas}]}]});
    fs::write(folder.join("en.json"), file.to_string()).unwrap();
    Collection::open(&folder.join("en.json")).unwrap()
}

#[test]
fn sentences_are_pooled_inside_their_paragraph() {
    let folder = tempfile::tempdir().unwrap();
    let built_in = builtin::write_to(&folder.path().join("in"), builtin::SEED).unwrap();
    let (model, tokenizer) = model(&built_in.model);
    let collection = sentences(folder.path());
    let paragraph = collection.paragraphs[0].clone();
    let whole = tokenizer.encode(&paragraph, Bos::Add, 64).unwrap().ids;
    let bytes: Vec<_> = collection.passages.iter().map(|p| p.within.clone().unwrap().1).collect();
    let max_length = tokenizer.encode(&paragraph[..bytes[1].end], Bos::Add, 64).unwrap().ids.len();
    assert!(max_length < whole.len());
    let encode = Encoding { tokenizer: &tokenizer, bos: Bos::Add, max_length };
    let (ids, parts) = encode.parts(&paragraph, &bytes, &mut 0).unwrap();
    assert_eq!((ids.as_slice(), parts[2].len()), (&whole[..max_length], 0), "the last sentence is cut off");
    assert_eq!((parts[0].start, parts[0].end, parts[1].end), (1, parts[1].start, max_length));

    let questions = Questions::new(collection, &encode).unwrap();
    let cut: Vec<String> = questions.cuts(max_length).collect();
    assert_eq!(cut, [format!("XQuAD-R: 2 texts in en were cut at {max_length} tokens.")]);
    let layer = Layer::Hidden(1);
    let readings = [Pooling::Last, Pooling::Mean, Pooling::MeanNoSink].map(|pooling| Reading { layer, pooling });
    let vectors = questions.embed(&model, None, &readings, |_| {}).unwrap();
    let width = model.config.hidden_size;
    let tokens = states(&model, None, &[&ids], &[layer], |_| {}).unwrap().remove(0);
    for (reading, rows) in readings.iter().zip(&vectors.within) {
        for (i, part) in parts[..2].iter().enumerate() {
            let part = if reading.pooling == Pooling::Last { part.end - 1..part.end } else { part.clone() };
            let sum = |c: usize| part.clone().map(|t| f64::from(tokens[t * width + c])).sum::<f64>();
            let mean: Vec<f64> = (0..width).map(sum).collect();
            let norm = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
            let mean: Vec<f64> = mean.iter().map(|v| v / norm).collect();
            assert_close(&format!("{reading:?}, sentence {i}"), rows.row(i), &mean, 1e-5);
        }
        assert!(rows.row(2).iter().all(|&v| v == 0.0), "a sentence without tokens has no direction");
    }
    assert_eq!((vectors.questions[0].len(), vectors.passages[0].len()), (1, 3));
}
