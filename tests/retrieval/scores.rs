use super::{cosine, random_embeddings};
use crate::support::rng;
use kiungo::device::Device;
use kiungo::retrieval::scores::{Metric, Scores};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, rngs::StdRng};

const METRICS: [Metric; 9] = [
    Metric::HitRate(1),
    Metric::HitRate(5),
    Metric::Recall(1),
    Metric::Recall(5),
    Metric::ReciprocalRank(10),
    Metric::ReciprocalRank(usize::MAX),
    Metric::Ndcg(3),
    Metric::Ndcg(10),
    Metric::AveragePrecision,
];

/// The textbook definitions over a list of relevance marks, best candidate first.
fn textbook(metric: Metric, list: &[bool]) -> f64 {
    let total = list.iter().filter(|&&r| r).count() as f64;
    let first = list.iter().position(|&r| r).unwrap() + 1;
    let gain = |list: &[bool], k: usize| -> f64 {
        list.iter().take(k).enumerate().map(|(i, &r)| if r { 1.0 / ((i + 2) as f64).log2() } else { 0.0 }).sum()
    };
    match metric {
        Metric::HitRate(k) => f64::from(u8::from(list.iter().take(k).any(|&r| r))),
        Metric::Recall(k) => list.iter().take(k).filter(|&&r| r).count() as f64 / total,
        Metric::ReciprocalRank(k) => {
            if first <= k {
                1.0 / first as f64
            } else {
                0.0
            }
        }
        Metric::Ndcg(k) => {
            let mut best = list.to_vec();
            best.sort_by_key(|&r| !r);
            gain(list, k) / gain(&best, k)
        }
        Metric::AveragePrecision => {
            let precision = |i: usize| list[..=i].iter().filter(|&&r| r).count() as f64 / (i + 1) as f64;
            (0..list.len()).filter(|&i| list[i]).map(precision).sum::<f64>() / total
        }
    }
}

/// Candidates by falling score; among equals, those that are not relevant first.
fn sorted_list(scores: &[f32], relevant: &[usize]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(relevant.contains(&a).cmp(&relevant.contains(&b))));
    order.iter().map(|c| relevant.contains(c)).collect()
}

/// Scores of few distinct values, so that ties are everywhere, and 1 to 4 relevant candidates a query.
fn tied(rng: &mut StdRng, queries: usize, candidates: usize) -> (Vec<f32>, Vec<Vec<usize>>) {
    let scores = (0..queries * candidates).map(|_| rng.random_range(-3..=3) as f32 / 4.0).collect();
    let mut all: Vec<usize> = (0..candidates).collect();
    let relevance = (0..queries).map(|_| {
        all.shuffle(rng);
        all[..rng.random_range(1..=candidates.min(4))].to_vec()
    });
    (scores, relevance.collect())
}

#[test]
fn metrics_match_their_textbook_definitions_with_ties_as_wrong() {
    for (queries, candidates) in [(1, 1), (5, 2), (40, 13), (33, 57)] {
        let (scores, relevance) = tied(&mut rng(queries as u64), queries, candidates);
        let found = Scores::from_similarity(&scores, candidates, &relevance).unwrap();
        for metric in METRICS {
            let expected: Vec<f64> = scores
                .chunks(candidates)
                .zip(&relevance)
                .map(|(scores, relevant)| textbook(metric, &sorted_list(scores, relevant)))
                .collect();
            for (q, (found, expected)) in found.per_query(metric).iter().zip(&expected).enumerate() {
                assert!((found - expected).abs() < 1e-12, "{metric}, query {q}: {found}, expected {expected}");
            }
            let mean = expected.iter().sum::<f64>() / queries as f64;
            assert!((found.mean(metric) - mean).abs() < 1e-12, "{metric}");
        }
    }
}

#[test]
fn rank_counts_the_others_that_score_at_least_as_high() {
    let scores = [0.5, 0.9, 0.5, 0.5, 0.1];
    let found = Scores::from_similarity(&scores, 5, &[vec![3, 4]]).unwrap();
    assert_eq!(found.rankings[0].positions, [4, 5]);
    assert_eq!((found.rankings[0].rank(), found.rankings[0].distance(), found.rankings[0].top), (4, 1, 1));
    // Where all is the same, as after a collapse, nothing is found.
    let same = Scores::from_similarity(&[0.7; 6], 3, &[vec![0], vec![2]]).unwrap();
    assert_eq!(same.mean(Metric::ACCURACY), 0.0);
    assert_eq!(same.rankings.iter().map(|r| (r.rank(), r.top)).collect::<Vec<_>>(), [(3, 0), (3, 0)]);
}

#[test]
fn cosine_ranking_matches_float64() {
    // More queries than are ranked at once, in a number that leaves a remainder.
    let (queries, candidates, width) = (1031, 37, 19);
    let mut rng = rng(11);
    let (q, c) = (random_embeddings(&mut rng, queries, width), random_embeddings(&mut rng, candidates, width));
    let relevance: Vec<Vec<usize>> = (0..queries).map(|i| vec![i % candidates, (i * 7 + 1) % candidates]).collect();
    let relevance: Vec<Vec<usize>> = relevance
        .into_iter()
        .map(|mut r| {
            r.sort();
            r.dedup();
            r
        })
        .collect();
    let found = Scores::of(&Device::Cpu, &q, &c, &relevance).unwrap();
    for (i, ranking) in found.rankings.iter().enumerate() {
        let scores: Vec<f64> = c.rows().map(|row| cosine(q.row(i), row)).collect();
        let position = |&r: &usize| 1 + scores.iter().filter(|&&s| s > scores[r]).count();
        let mut expected: Vec<usize> = relevance[i].iter().map(position).collect();
        expected.sort();
        assert_eq!(ranking.positions, expected, "query {i}");
    }
}

#[test]
fn chance_is_the_mean_over_all_orders() {
    // All orders of a few marks, by counting through the bits.
    for (relevant, candidates) in [(1, 1), (1, 7), (3, 7), (2, 12), (12, 12)] {
        let lists: Vec<Vec<bool>> = (0u32..1 << candidates)
            .filter(|bits| bits.count_ones() == relevant)
            .map(|bits| (0..candidates).map(|i| bits >> i & 1 == 1).collect())
            .collect();
        for metric in METRICS {
            let mean = lists.iter().map(|list| textbook(metric, list)).sum::<f64>() / lists.len() as f64;
            let found = metric.chance(relevant as usize, candidates as usize);
            assert!((found - mean).abs() < 1e-12, "{metric}, {relevant} of {candidates}: {found}, expected {mean}");
        }
    }
    let mixed = Scores::from_similarity(&[0.0; 8], 4, &[vec![0], vec![1, 2, 3]]).unwrap();
    assert_eq!(mixed.chance(Metric::ACCURACY), (0.25 + 0.75) / 2.0);
    assert!((Metric::ACCURACY.chance(1, 240) - 1.0 / 240.0).abs() < 1e-15);
}

#[test]
fn bad_input_names_the_query() {
    let error = |scores: &[f32], candidates, relevance: &[Vec<usize>]| {
        Scores::from_similarity(scores, candidates, relevance).unwrap_err().to_string()
    };
    let two = [vec![0], vec![1]];
    let nan = "retrieval: query 1 scores NaN against candidate 2: its embeddings are not finite";
    assert_eq!(error(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN], 3, &two), nan);
    assert_eq!(error(&[], 3, &[]), "retrieval: no queries to score");
    assert_eq!(error(&[], 0, &two), "retrieval: no candidates to score");
    assert_eq!(error(&[0.0; 5], 3, &two), "retrieval: scores: expected 6, found 5");
    assert_eq!(error(&[0.0; 6], 3, &[vec![0], vec![]]), "retrieval: query 1: no relevant candidate");
    assert_eq!(error(&[0.0; 6], 3, &[vec![0], vec![3]]), "retrieval: query 1: relevant candidate 3, but there are 3");
    assert_eq!(
        error(&[0.0; 6], 3, &[vec![2, 0, 2], vec![0]]),
        "retrieval: query 0: relevant candidate 2 is listed twice"
    );
    let mut rng = rng(1);
    let (q, c) = (random_embeddings(&mut rng, 2, 4), random_embeddings(&mut rng, 2, 5));
    let widths = Scores::of(&Device::Cpu, &q, &c, &two).unwrap_err().to_string();
    assert_eq!(widths, "retrieval: columns of the corpus: expected 4, found 5");
}

#[test]
fn metrics_name_themselves_as_the_field_does() {
    let names = Metric::USUAL.map(|m| m.to_string());
    assert_eq!(names, ["accuracy@1", "recall@5", "recall@10", "MRR@10", "nDCG@10", "mAP"]);
    assert_eq!(Metric::ReciprocalRank(usize::MAX).to_string(), "MRR");
}

proptest! {
    #[test]
    fn looser_metrics_are_never_lower(seed: u64, queries in 1usize..20, candidates in 1usize..30) {
        let (scores, relevance) = tied(&mut rng(seed), queries, candidates);
        let mean = |relevance: &[Vec<usize>], metric| {
            Scores::from_similarity(&scores, candidates, relevance).unwrap().mean(metric)
        };
        for loose in [Metric::HitRate as fn(usize) -> Metric, Metric::Recall, Metric::ReciprocalRank] {
            prop_assert!(mean(&relevance, loose(1)) <= mean(&relevance, loose(5)));
            prop_assert!(mean(&relevance, loose(5)) <= mean(&relevance, loose(10)));
        }
        // With one relevant candidate, the two families are one.
        let single: Vec<Vec<usize>> = relevance.iter().map(|r| vec![r[0]]).collect();
        prop_assert_eq!(mean(&single, Metric::ACCURACY), mean(&single, Metric::Recall(1)));
        prop_assert!(mean(&single, Metric::ACCURACY) <= mean(&single, Metric::Recall(5)));
        prop_assert!(mean(&single, Metric::ACCURACY) <= mean(&single, Metric::ReciprocalRank(10)));
        prop_assert!(mean(&single, Metric::ReciprocalRank(10)) <= mean(&single, Metric::Ndcg(10)));
        prop_assert!(mean(&single, Metric::Ndcg(10)) <= mean(&single, Metric::Recall(10)));
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(seed: u64, queries in 1usize..12, candidates in 1usize..25) {
        let mut rng = rng(seed);
        let (scores, relevance) = tied(&mut rng, queries, candidates);
        let mut to: Vec<usize> = (0..candidates).collect();
        to.shuffle(&mut rng);
        let mut moved = vec![0.0; scores.len()];
        for (i, &score) in scores.iter().enumerate() {
            moved[i / candidates * candidates + to[i % candidates]] = score;
        }
        let renamed: Vec<Vec<usize>> = relevance.iter().map(|r| r.iter().map(|&c| to[c]).collect()).collect();
        let positions = |scores: &[f32], relevance: &[Vec<usize>]| -> Vec<Vec<usize>> {
            let found = Scores::from_similarity(scores, candidates, relevance).unwrap();
            found.rankings.into_iter().map(|r| r.positions).collect()
        };
        prop_assert_eq!(positions(&scores, &relevance), positions(&moved, &renamed));
    }
}
