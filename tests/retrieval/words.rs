use super::{cosine, random_embeddings, unit};
use crate::support::{normal, rng};
use kiungo::device::Device;
use kiungo::retrieval::Embeddings;
use kiungo::retrieval::scores::{Metric, Scores};
use kiungo::retrieval::statistics::Bootstrap;
use kiungo::retrieval::words::{Alignment, Collapse, Group, Reading};
use rand::{Rng, rngs::StdRng};

/// Words with synonyms on both sides, a doubled pair, and a loan word.
const PAIRS: [(&str, &str); 9] = [
    ("mti", "tree"),
    ("gari", "car"),
    ("motokaa", "car"),
    ("gari", "cart"),
    ("maji", "water"),
    ("redio", "redio"),
    ("mti", "tree"),
    ("mwezi", "moon"),
    ("mwezi", "month"),
];

/// A translation that no pair of the group has.
const LISTED: [(&str, &str); 3] = [("motokaa", "cart"), ("maji", "juice"), ("jua", "sun")];

fn translates(source: &str, target: &str) -> bool {
    PAIRS.iter().chain(&LISTED).any(|&p| p == (source, target))
}

/// One random row a distinct word, as a model gives.
fn embed<'a>(rng: &mut StdRng, words: impl Iterator<Item = &'a str>, width: usize) -> Embeddings {
    let mut known = std::collections::HashMap::new();
    let rows = words.flat_map(|w| known.entry(w).or_insert_with(|| unit(&normal(rng, width))).clone());
    Embeddings::new(rows.collect(), width).unwrap()
}

fn sides(seed: u64, width: usize) -> (Embeddings, Embeddings) {
    let mut rng = rng(seed);
    (embed(&mut rng, PAIRS.iter().map(|p| p.0), width), embed(&mut rng, PAIRS.iter().map(|p| p.1), width))
}

/// Precision@1 and reciprocal rank of each pair's word among the distinct words of the other side.
fn brute_force_search(
    queries: &Embeddings,
    words: &Embeddings,
    side: impl Fn(usize) -> (&'static str, &'static str),
    right: impl Fn(&str, &str) -> bool,
) -> Vec<(f64, f64)> {
    let distinct: Vec<usize> = (0..PAIRS.len()).filter(|&j| !(0..j).any(|i| side(i).1 == side(j).1)).collect();
    (0..PAIRS.len())
        .map(|i| {
            let score = |j: usize| cosine(queries.row(i), words.row(j));
            let good = |j: usize| right(side(i).0, side(j).1);
            let best = distinct.iter().filter(|&&j| good(j)).map(|&j| score(j)).fold(f64::MIN, f64::max);
            let rank = 1 + distinct.iter().filter(|&&j| !good(j) && score(j) >= best).count();
            (f64::from(u8::from(rank == 1)), 1.0 / rank as f64)
        })
        .collect()
}

fn assert_search(found: &Scores, expected: &[(f64, f64)]) {
    assert_eq!(found.per_query(Metric::ACCURACY), expected.iter().map(|e| e.0).collect::<Vec<_>>());
    let ranks = found.per_query(Metric::ReciprocalRank(usize::MAX));
    assert_eq!(ranks, expected.iter().map(|e| e.1).collect::<Vec<_>>());
}

#[test]
fn alignment_matches_brute_force() {
    for (seed, width) in [(1, 5), (2, 16), (3, 33)] {
        let (source, target) = sides(seed, width);
        let found = Group::new(&PAIRS, &LISTED).unwrap().measure(&Device::Cpu, &source, &target).unwrap();
        let n = PAIRS.len();
        let (mut pairs, mut shuffled) = (0.0, Vec::new());
        for (i, (word, _)) in PAIRS.iter().enumerate() {
            let own = cosine(source.row(i), target.row(i));
            let others: Vec<f64> = (0..n)
                .filter(|&j| !translates(word, PAIRS[j].1))
                .map(|j| cosine(source.row(i), target.row(j)))
                .collect();
            let margin = own - others.iter().sum::<f64>() / others.len() as f64;
            assert!((found.cosines[i] - own).abs() < 1e-12);
            assert!((found.margins[i] - margin).abs() < 1e-12, "pair {i}");
            pairs += own / n as f64;
            shuffled.extend(others);
        }
        assert!((found.pair_cosine - pairs).abs() < 1e-12);
        assert!((found.shuffled_cosine - shuffled.iter().sum::<f64>() / shuffled.len() as f64).abs() < 1e-12);
        assert_search(&found.to_target, &brute_force_search(&source, &target, |i| PAIRS[i], translates));
        let flip = |i: usize| (PAIRS[i].1, PAIRS[i].0);
        assert_search(&found.to_source, &brute_force_search(&target, &source, flip, |t, s| translates(s, t)));
    }
}

#[test]
fn listed_translations_count_as_right_and_not_as_shuffled() {
    // "car" and "cart" share a place: "gari" means both, so nothing stands before them.
    let axis = |i: usize| (0..8).map(|c| if c == i { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let rows = |axes: &[usize]| Embeddings::new(axes.iter().flat_map(|&i| axis(i)).collect(), 8).unwrap();
    let (source, target) = (rows(&[0, 1, 1, 1, 2, 3, 0, 4, 4]), rows(&[0, 1, 1, 1, 2, 3, 0, 4, 5]));
    let found = Group::new(&PAIRS, &LISTED).unwrap().measure(&Device::Cpu, &source, &target).unwrap();
    assert_eq!(found.to_target.mean(Metric::ACCURACY), 1.0);
    assert_eq!(found.shuffled_cosine, 0.0);
    assert_eq!(found.pair_cosine, 8.0 / 9.0);
    // Seven distinct targets; "tree" 1, "gari" 2, "motokaa" 2 with the listed one, "mwezi" 2.
    let right = [1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0].iter().sum::<f64>();
    assert!((found.to_target.chance(Metric::ACCURACY) - right / 9.0 / 7.0).abs() < 1e-12);
    // Without the list, "motokaa" does not mean "cart", which ties with "car" and so stands before it.
    let strict = Group::new(&PAIRS, &[]).unwrap().measure(&Device::Cpu, &source, &target).unwrap();
    assert_eq!(strict.to_target.per_query(Metric::ACCURACY)[2], 0.0);
    assert!(strict.shuffled_cosine > 0.0);
}

#[test]
fn a_collapsed_model_finds_nothing() {
    let rows: Vec<f32> = PAIRS.iter().flat_map(|_| unit(&[0.3, 0.4, -0.5])).collect();
    let e = Embeddings::new(rows, 3).unwrap();
    let found = Group::new(&PAIRS, &[]).unwrap().measure(&Device::Cpu, &e, &e).unwrap();
    assert!((found.pair_cosine - 1.0).abs() < 1e-6 && (found.shuffled_cosine - 1.0).abs() < 1e-6);
    assert_eq!(found.precision_at_1(), 0.0);
}

#[test]
fn the_order_of_the_pairs_does_not_matter() {
    let (source, target) = sides(4, 12);
    let order = [4, 0, 8, 2, 7, 5, 6, 1, 3];
    let moved: Vec<_> = order.iter().map(|&i| PAIRS[i]).collect();
    let measure = |pairs: &[(&'static str, &'static str)], s: &Embeddings, t: &Embeddings| {
        Group::new(pairs, &LISTED).unwrap().measure(&Device::Cpu, s, t).unwrap()
    };
    let (a, b) = (measure(&PAIRS, &source, &target), measure(&moved, &source.select(&order), &target.select(&order)));
    assert!((a.shuffled_cosine - b.shuffled_cosine).abs() < 1e-14);
    for (place, &i) in order.iter().enumerate() {
        assert!((a.margins[i] - b.margins[place]).abs() < 1e-14);
        assert_eq!(a.to_target.rankings[i].positions, b.to_target.rankings[place].positions);
        assert_eq!(a.to_source.rankings[i].positions, b.to_source.rankings[place].positions);
    }
}

/// A group of distinct words whose targets lie near their sources by `pull`.
fn measured(seed: u64, n: usize, pull: f32) -> Alignment {
    let width = 24;
    let mut rng = rng(seed);
    let source = random_embeddings(&mut rng, n, width);
    let noise = random_embeddings(&mut rng, n, width);
    let near = |(s, e): (&[f32], &[f32])| unit(&s.iter().zip(e).map(|(s, e)| pull * s + e).collect::<Vec<_>>());
    let target = Embeddings::new(source.rows().zip(noise.rows()).flat_map(near).collect(), width).unwrap();
    let words: Vec<String> = (0..n).map(|i| format!("w{i}")).collect();
    let pairs: Vec<(&str, &str)> = words.iter().map(|w| (w.as_str(), w.as_str())).collect();
    Group::new(&pairs, &[]).unwrap().measure(&Device::Cpu, &source, &target).unwrap()
}

#[test]
fn a_change_reports_every_measure() {
    let (before, after) = (measured(8, 80, 0.1), measured(8, 80, 1.0));
    let change = Alignment::change(&before, &after, &Bootstrap::default()).unwrap();
    assert!((change.cosine.before.value - before.pair_cosine).abs() < 1e-12);
    assert!((change.cosine.after.value - after.pair_cosine).abs() < 1e-12);
    // Every source word has as many others here, so that the two means agree.
    assert!((change.shuffled[1].value - after.shuffled_cosine).abs() < 1e-12);
    assert!(change.margin.difference.excludes_zero() && change.margin.share_improved() > 0.9);
    assert!(change.margin.test.p.log10 < -10.0 && change.margin.test.df == 79.0);
    let p1 = change.to_target.precision_at_1;
    assert_eq!(p1.after.value, after.to_target.mean(Metric::ACCURACY));
    assert_eq!(change.to_target.chance, 1.0 / 80.0);
    let gained = change.to_target.mcnemar.only_second as f64 - change.to_target.mcnemar.only_first as f64;
    assert!((p1.difference.value - gained / 80.0).abs() < 1e-12);
    let same = Alignment::change(&before, &before, &Bootstrap::default()).unwrap();
    assert_eq!((same.cosine.test.p.p, same.to_source.mcnemar.p.p, same.margin.improved), (1.0, 1.0, 0));
    assert!(Alignment::change(&before, &measured(8, 79, 0.1), &Bootstrap::default()).is_err());
}

#[test]
fn collapse_is_told_from_success() {
    let judge = |cosines: [f64; 2], precision: [f64; 2]| {
        let reading = |i: usize| Reading { shuffled_cosine: cosines[i], precision_at_1: precision[i] };
        Collapse::judge(reading(0), reading(1))
    };
    // Measured on SmolLM2-135M: the hardest-negative triplet loss, then symmetric InfoNCE.
    let triplet = judge([0.829, 0.997], [0.033, 0.033]);
    assert!(triplet.collapsed);
    assert_eq!(
        triplet.explanation(),
        "The embeddings have collapsed: unrelated words have moved together (shuffled pairs' cosine 0.829 to 0.997), \
         and word retrieval has not risen (P@1 0.033 to 0.033)."
    );
    let infonce = judge([0.829, 0.024], [0.033, 0.067]);
    assert!(!infonce.collapsed);
    assert!(infonce.explanation().starts_with("The embeddings have not collapsed"), "{}", infonce.explanation());
    assert!(!judge([0.8, 0.95], [0.03, 0.08]).collapsed, "retrieval has risen");
    assert!(!judge([0.8, 0.89], [0.03, 0.03]).collapsed, "not yet half way");
    assert!(judge([0.8, 0.91], [0.03, 0.03]).collapsed);
}

#[test]
fn bad_groups_are_refused() {
    let text = |pairs: &[(&'static str, &'static str)]| Group::new(pairs, &[]).unwrap_err().to_string();
    assert_eq!(text(&[]), "word pairs: the group is empty");
    let lone = "word pairs: pair 0: every target word of the group is listed for \"gari\": a larger group is needed";
    assert_eq!(text(&[("gari", "car"), ("gari", "cart")]), lone);
    let group = Group::new(&PAIRS, &[]).unwrap();
    let mut rng = rng(1);
    let (nine, eight) = (random_embeddings(&mut rng, 9, 4), random_embeddings(&mut rng, 8, 4));
    let short = group.measure(&Device::Cpu, &nine, &eight).unwrap_err().to_string();
    assert_eq!(short, "word pairs: 9 pairs, but 8 target embeddings");
    let columns = rng.random_range(5..9);
    let wide = random_embeddings(&mut rng, 9, columns);
    assert!(group.measure(&Device::Cpu, &nine, &wide).is_err());
}
