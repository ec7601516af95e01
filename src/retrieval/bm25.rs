//! BM25 (Robertson and Walker 1994): retrieval by shared words, a baseline that needs no model.

use rayon::prelude::*;
use std::collections::HashMap;
use unicode_segmentation::UnicodeSegmentation;

/// How fast a word's repetition saturates, and how much a passage's length counts: Lucene's defaults.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Passages by the words they hold.
pub struct Index {
    /// For each word, the passages that hold it, with what one occurrence in a query is worth there.
    weights: HashMap<String, Vec<(usize, f32)>>,
    passages: usize,
}

impl Index {
    /// Over passages, whose numbers are their places.
    pub fn new(passages: &[&str]) -> Index {
        let counts: Vec<HashMap<String, f32>> = passages.par_iter().map(|text| count(text)).collect();
        let lengths: Vec<f32> = counts.iter().map(|words| words.values().sum()).collect();
        let mean = lengths.iter().sum::<f32>() / lengths.len().max(1) as f32;
        let mut weights: HashMap<String, Vec<(usize, f32)>> = HashMap::new();
        for (passage, words) in counts.into_iter().enumerate() {
            let norm = K1 * (1.0 - B + B * lengths[passage] / mean);
            for (word, n) in words {
                weights.entry(word).or_default().push((passage, n * (K1 + 1.0) / (n + norm)));
            }
        }
        for held in weights.values_mut() {
            let with = held.len() as f32;
            let rarity = (1.0 + (passages.len() as f32 - with + 0.5) / (with + 0.5)).ln();
            held.iter_mut().for_each(|(_, weight)| *weight *= rarity);
        }
        Index { weights, passages: passages.len() }
    }

    /// Scores of all passages for each query, `[queries, passages]`.
    pub fn scores(&self, queries: &[&str]) -> Vec<f32> {
        let mut scores = vec![0.0; queries.len() * self.passages];
        scores.par_chunks_mut(self.passages.max(1)).zip(queries).for_each(|(scores, query)| {
            for word in words(query) {
                for &(passage, weight) in self.weights.get(&word).into_iter().flatten() {
                    scores[passage] += weight;
                }
            }
        });
        scores
    }
}

/// Words by Unicode's rules (UAX 29), in lower case. Scripts without spaces come apart into characters.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.unicode_words().map(str::to_lowercase)
}

fn count(text: &str) -> HashMap<String, f32> {
    let mut counts = HashMap::new();
    words(text).for_each(|word| *counts.entry(word).or_default() += 1.0);
    counts
}
