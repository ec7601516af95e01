use super::unit;
use crate::support::{Golden, normal, path, rng};
use kiungo::device::Device;
use kiungo::formats::collection::Collection;
use kiungo::llama::Layer;
use kiungo::ops::pooling::Pooling;
use kiungo::retrieval::Embeddings;
use kiungo::retrieval::bm25::Index;
use kiungo::retrieval::embed::Reading;
use kiungo::retrieval::maps::{Fit, Map};
use kiungo::retrieval::questions::Vectors;
use kiungo::retrieval::ranks;
use kiungo::retrieval::rows::{rows, table};
use kiungo::retrieval::scores::{Metric, Scores};
use kiungo::retrieval::statistics::Bootstrap;
use kiungo::retrieval::views::{Treatment, Views, judge, views};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;

const READING: Reading = Reading { layer: Layer::Hidden(1), pooling: Pooling::Mean };

fn vectors(questions: Embeddings, passages: Embeddings) -> Vectors {
    Vectors { readings: vec![READING], questions: vec![questions], passages: vec![passages], within: vec![] }
}

/// Two languages of three paragraphs in two articles, two questions each.
fn two_languages() -> Collection {
    let folder = tempfile::tempdir().unwrap();
    for language in ["en", "ro"] {
        let paragraph = |p: usize| {
            let qas: Vec<Value> =
                (0..2).map(|q| json!({"id": format!("{p}{q}"), "question": format!("q{p}{q}")})).collect();
            json!({"context": format!("{language} {p}"), "qas": qas})
        };
        let file = json!({"data": [{"paragraphs": [paragraph(0), paragraph(1)]}, {"paragraphs": [paragraph(2)]}]});
        fs::write(folder.path().join(format!("{language}.json")), file.to_string()).unwrap();
    }
    Collection::open(folder.path()).unwrap()
}

/// A row near one of `width` axes, with a share of a language's own.
fn near(axis: usize, language: usize, share: f32) -> Vec<f32> {
    let mut row = [0.0; 6];
    row[axis] = 1.0;
    row[4 + language] = share;
    unit(&row)
}

fn rows_near(axes: &[(usize, usize)], share: f32) -> Embeddings {
    Embeddings::new(axes.iter().flat_map(|&(axis, language)| near(axis, language, share)).collect(), 6).unwrap()
}

/// Questions that lie at their paragraphs, but for what languages add.
fn aligned(share: f32) -> Vectors {
    let questions: Vec<(usize, usize)> = (0..2).flat_map(|l| [0, 0, 1, 1, 2, 2].map(|p| (p, l))).collect();
    let passages: Vec<(usize, usize)> = (0..2).flat_map(|l| [0, 1, 2].map(|p| (p, l))).collect();
    vectors(rows_near(&questions, share), rows_near(&passages, share))
}

#[test]
fn mteb_and_trec_agree() {
    let collection = Collection::open(&path("golden/retrieval.en.json")).unwrap();
    let golden = Golden::open("retrieval.safetensors");
    let rows_of = |name: &str| Embeddings::new(golden.f32(name), golden.shape(name)[1]).unwrap();
    let (questions, paragraphs) = (rows_of("questions"), rows_of("paragraphs"));
    let expected: Value = serde_json::from_slice(&fs::read(path("golden/retrieval.json")).unwrap()).unwrap();
    let compare = |what: &str, scores: &Scores| {
        assert_eq!(expected[what]["queries"], scores.rankings.len());
        for metric in Metric::USUAL {
            let (found, peer) = (scores.mean(metric), expected[what][metric.to_string()].as_f64().unwrap());
            assert!((found - peer).abs() < 1e-6, "{what}, {metric}: {found}, pytrec_eval {peer}");
        }
    };
    let views = views(&collection, Views::Mteb);
    let all = vectors(questions.clone(), paragraphs.clone());
    let judged = judge(&Device::Cpu, &collection, &all, &views, &[Treatment::Plain], &HashMap::new()).unwrap();
    assert_eq!(judged.len(), 1);
    assert_eq!(judged[0].view.candidates.len(), 17);
    compare("mteb", &judged[0].scores);

    let kept: Vec<usize> = (0..paragraphs.len()).filter(|&p| p != 11).collect();
    let relevance: Vec<Vec<usize>> =
        (0..questions.len()).map(|q| [0, 5, 7].map(|s| (q + s) % kept.len()).to_vec()).collect();
    let scores = Scores::of(&Device::Cpu, &questions, &paragraphs.select(&kept), &relevance).unwrap();
    compare("pooled", &scores);
}

#[test]
fn families_ask_what_they_say() {
    let collection = two_languages();
    let of = |family| -> Vec<(String, usize, usize)> {
        let name = |v: &kiungo::retrieval::views::View| {
            (format!("{} > {}", v.questions, v.passages), v.asked.len(), v.candidates.len())
        };
        views(&collection, family).iter().map(name).collect()
    };
    let row = |name: &str, asked, candidates| (name.to_string(), asked, candidates);
    assert_eq!(of(Views::English), [row("ro > en", 6, 3)]);
    assert_eq!(of(Views::Own), [row("en > en", 6, 3), row("ro > ro", 6, 3)]);
    assert_eq!(
        of(Views::Matrix),
        [row("en > en", 6, 3), row("en > ro", 6, 3), row("ro > en", 6, 3), row("ro > ro", 6, 3)]
    );
    assert_eq!(of(Views::Pooled), [row("en > all", 6, 6), row("ro > all", 6, 6), row("all > all", 12, 6)]);
    let mut harder = collection.clone();
    harder.add_distractors(&collection);
    let found =
        |c: &Collection| -> Vec<String> { views(c, Views::English).iter().map(|v| v.passages.clone()).collect() };
    assert_eq!(found(&harder), ["en"], "its own passages are no distractors: they would tie");
    let mut others = collection.clone();
    others.passages.iter_mut().for_each(|p| p.text += " and more");
    harder.add_distractors(&others);
    assert_eq!(found(&harder), ["en", "en + 3"]);
}

#[test]
fn language_bias_is_seen_and_centring_takes_it_out() {
    let collection = two_languages();
    let pooled = views(&collection, Views::Pooled);
    let treatments = [Treatment::Plain, Treatment::Centred, Treatment::CrossFitted];
    let judged = judge(&Device::Cpu, &collection, &aligned(3.0), &pooled, &treatments, &HashMap::new()).unwrap();
    let rows = rows(&collection, &judged, &Bootstrap::default()).unwrap();
    let all: Vec<_> = rows.iter().filter(|r| r.questions == "all").collect();
    assert_eq!(all.iter().map(|r| r.treatment).collect::<Vec<_>>(), treatments);
    // The own language's passages come first, the right one of them foremost; then those of the other.
    let plain = all[0];
    assert_eq!((plain.same_language, plain.rank_distance), (Some(1.0), Some(3.0)));
    assert_eq!((plain.accuracy_at_1, plain.interval), (1.0, Some([1.0, 1.0])));
    assert!((plain.map - 0.75).abs() < 1e-12, "{}", plain.map);
    // Without the language's share, both translations stand at one place: the tie counts by row, not by language.
    assert_eq!((all[1].rank_distance, all[1].map), (Some(1.0), 1.0));
}

#[test]
fn cross_fitted_means_leave_the_own_article_out() {
    let collection = two_languages();
    let english = views(&collection, Views::English);
    let mut rng = rng(4);
    let random = |n: usize, rng: &mut _| normal(rng, n * 6).chunks(6).flat_map(unit).collect::<Vec<f32>>();
    let all =
        vectors(Embeddings::new(random(12, &mut rng), 6).unwrap(), Embeddings::new(random(6, &mut rng), 6).unwrap());
    let judged = judge(&Device::Cpu, &collection, &all, &english, &[Treatment::CrossFitted], &HashMap::new()).unwrap();
    // By hand, in float64: for a question, the means are of rows of the same language and role in the other article.
    let centred = |rows: &Embeddings, of: &dyn Fn(usize) -> (usize, usize), i: usize, article: usize| -> Vec<f64> {
        let others: Vec<usize> = (0..rows.len()).filter(|&j| of(j).0 == of(i).0 && of(j).1 != article).collect();
        let mean = |c: usize| others.iter().map(|&j| f64::from(rows.row(j)[c])).sum::<f64>() / others.len() as f64;
        let row: Vec<f64> = (0..6).map(|c| f64::from(rows.row(i)[c]) - mean(c)).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        // A passage that is its article's only one is its own mean.
        row.iter().map(|v| if norm > 1e-6 { v / norm } else { 0.0 }).collect()
    };
    for (q, ranking) in judged[0].scores.rankings.iter().enumerate() {
        let article = usize::from(q >= 4);
        let question = centred(&all.questions[0], &|i| (i / 6, usize::from(i % 6 >= 4)), 6 + q, article);
        let cosine = |p: usize| -> f64 {
            let passage = centred(&all.passages[0], &|i| (i / 3, usize::from(i % 3 == 2)), p, article);
            question.iter().zip(&passage).map(|(a, b)| a * b).sum()
        };
        let right = cosine(q / 2);
        assert_eq!(ranking.rank(), 1 + (0..3).filter(|&p| p != q / 2 && cosine(p) >= right).count(), "question {q}");
    }
}

#[test]
fn every_rank_is_written_and_tables_show_what_differs() {
    let collection = two_languages();
    let all: Vec<_> = [Views::English, Views::Own].iter().flat_map(|&f| views(&collection, f)).collect();
    let judged =
        judge(&Device::Cpu, &collection, &aligned(0.5), &all, &[Treatment::Plain, Treatment::Bm25], &HashMap::new())
            .unwrap();
    let mut out = ranks::HEADER.as_bytes().to_vec();
    ranks::write(&collection, &judged, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 1 + 2 * 18);
    assert_eq!(text.lines().nth(1).unwrap(), "SQuAD\tenglish\tro\ten\t1\tmean\tplain\talone\t00\t0\t3\t1");
    assert!(text.lines().all(|line| line.split('\t').count() == 12));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ranks.tsv"), &text).unwrap();
    let read = ranks::read(&folder.path().join("ranks.tsv")).unwrap();
    assert_eq!(read.len(), judged.len());
    let (setting, first) = read.iter().find(|(s, _)| s.view == "english" && s.vectors == "plain").unwrap();
    assert_eq!((setting.questions.as_str(), setting.layer.as_str()), ("ro", "1"));
    assert_eq!((first.best.as_slice(), first.clusters.as_slice()), (&[1; 6][..], &[0, 0, 1, 1, 2, 2][..]));
    for (damaged, message) in [
        ("x", ":1: not a file of ranks: another header"),
        (&*(ranks::HEADER.to_string() + "a\tb\n"), ":2: expected 12 columns"),
    ] {
        fs::write(folder.path().join("ranks.tsv"), damaged).unwrap();
        assert!(ranks::read(&folder.path().join("ranks.tsv")).unwrap_err().to_string().ends_with(message));
    }
    let rows = rows(&collection, &judged, &Bootstrap::default()).unwrap();
    let names: Vec<String> = rows.iter().map(|r| format!("{} {} {}", r.questions, r.paragraphs, r.treatment)).collect();
    assert_eq!(
        names,
        [
            "ro en plain",
            "en en plain",
            "ro ro plain",
            "mean of 2 own plain",
            "ro en bm25",
            "en en bm25",
            "ro ro bm25",
            "mean of 2 own bm25"
        ]
    );
    let header = table(&rows).to_string().lines().next().unwrap().to_string();
    assert!(header.starts_with("view") && header.contains("vectors") && !header.contains("data"), "{header}");
}

#[test]
fn vectors_are_reused_only_for_what_they_were_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let all = aligned(0.5);
    let made = |weights: &str| BTreeMap::from([("model_weights".to_string(), weights.to_string())]);
    all.save(&path, &made("a")).unwrap();
    let again = Vectors::open(&path, &[READING], &made("a")).unwrap();
    assert_eq!(again.questions[0].values(), all.questions[0].values());
    assert_eq!((again.passages[0].len(), again.within.len()), (6, 0));
    let error = |readings: &[Reading], made| {
        let error = Vectors::open(&path, readings, &made).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "DIR")
    };
    assert_eq!(
        error(&[READING], made("b")),
        "DIR/v.safetensors: made with other model weights (a, now b); name another file, or remove this one"
    );
    let other = Reading { layer: Layer::Final, ..READING };
    assert_eq!(
        error(&[other], made("a")),
        "DIR/v.safetensors: not embeddings that kiungo saved: no questions.final.mean"
    );
}

/// Against the formula of Robertson and Walker in float64, with k1 = 1.2 and b = 0.75.
#[test]
fn bm25_is_the_textbook_formula() {
    let passages = ["the cat sat on the mat", "The dog, the dog!", "数学 是 美"];
    let found = Index::new(&passages).scores(&["dog the", "数"]);
    let (lengths, mean): ([f64; 3], f64) = ([6.0, 4.0, 4.0], 14.0 / 3.0);
    let score = |passage: usize, n: f64, with: f64| {
        let idf = (1.0 + (3.0 - with + 0.5) / (with + 0.5)).ln();
        idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * lengths[passage] / mean))
    };
    let expected = [score(0, 2.0, 2.0), score(1, 2.0, 1.0) + score(1, 2.0, 2.0), 0.0, 0.0, 0.0, score(2, 1.0, 1.0)];
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{found}, expected {expected}");
    }
}

#[test]
fn maps_find_the_rotation_and_the_least_squares() {
    // A rotation of the first two axes and a swap of the others.
    let turn = |row: &[f32]| vec![0.6 * row[0] - 0.8 * row[1], 0.8 * row[0] + 0.6 * row[1], row[3], row[2]];
    let mut rng = rng(9);
    let rows: Vec<Vec<f32>> = normal(&mut rng, 30 * 4).chunks(4).map(unit).collect();
    let source = Embeddings::new(rows.concat(), 4).unwrap();
    let target = Embeddings::new(rows.iter().flat_map(|row| turn(row)).collect(), 4).unwrap();
    let other: Vec<f32> = normal(&mut rng, 4);
    let other = unit(&other);
    let mapped =
        Map::fit(Fit::Procrustes, &source, &target).unwrap().apply(&Embeddings::new(other.clone(), 4).unwrap());
    for (found, expected) in mapped.values().iter().zip(turn(&other)) {
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
    // The ridge's own condition: s' (t - s w) = w, for each axis of w found by mapping the axes (before normalising, the
    // direction is all that is left, so it is compared by direction).
    let axis = Embeddings::new(vec![1.0, 0.0, 0.0, 0.0], 4).unwrap();
    let ridge = Map::fit(Fit::Ridge, &source, &target).unwrap().apply(&axis);
    let cosine: f32 = ridge.values().iter().zip(turn(&[1.0, 0.0, 0.0, 0.0])).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.99, "{cosine}");
    let error = Map::fit(Fit::Ridge, &source, &axis).unwrap_err().to_string();
    assert_eq!(error, "a linear map: (30, 4) source values, (1, 4) target values");
}
