mod compare;
mod damage;
mod determinism;
mod doctor;
mod embed;
mod errors;
mod eval;
mod findings;
mod full_disk;
mod full_gpu;
mod gpu;
mod hub;
mod merge;
mod newcomer;
mod pilot;
mod quantize;
mod random;
mod reference;
mod resume;
mod round_trip;
mod smollm2;

use serde_json::Value;
use std::fs;
use std::path::Path;

/// `in/more`: the passages of `in/xquad` in English, a little longer: distractors.
fn more_passages(folder: &Path) {
    let text = fs::read_to_string(folder.join("in/xquad/xquad.en.json")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    let articles = file["data"].as_array_mut().unwrap().iter_mut();
    for paragraph in articles.flat_map(|article| article["paragraphs"].as_array_mut().unwrap()) {
        paragraph["context"] = format!("{} And so on.", paragraph["context"].as_str().unwrap()).into();
    }
    fs::create_dir_all(folder.join("in/more")).unwrap();
    fs::write(folder.join("in/more/xquad.en.json"), file.to_string()).unwrap();
}
