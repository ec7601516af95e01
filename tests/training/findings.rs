use kiungo::retrieval::ranks::{Ranks, Setting};
use kiungo::retrieval::statistics::Bootstrap;
use kiungo::training::arms::Arm;
use kiungo::training::findings::{ArmRuns, Edge, Findings, Measured, Run};
use std::collections::BTreeMap;

const QUESTIONS: usize = 240;

/// Every setting of two languages, in which the first `right` of every 10 questions are found.
fn measured(layer: &str, right: usize) -> Measured {
    let mut all = BTreeMap::new();
    for (view, questions, paragraphs) in [("english", "ro", "en"), ("english", "sw", "en"), ("own", "ro", "ro")] {
        let setting = Setting {
            data: "XQuAD".into(),
            view: view.into(),
            questions: questions.into(),
            paragraphs: paragraphs.into(),
            layer: layer.into(),
            pooling: "mean-no-sink".into(),
            vectors: "plain".into(),
            passages: "alone".into(),
        };
        let best = (0..QUESTIONS).map(|q| if (q * 7) % 10 < right { 1 } else { 5 }).collect();
        all.insert(
            setting,
            Ranks { best, clusters: (0..QUESTIONS).map(|q| q / 5).collect(), answers: QUESTIONS, candidates: 50 },
        );
    }
    let run = Run {
        seed: 0,
        learning_rate: Some(1e-3),
        parameters: 1,
        steps: 1,
        final_loss: None,
        seconds: 1.0,
        memory: 1,
        collapsed: false,
        dev: BTreeMap::new(),
        control: BTreeMap::new(),
        perplexity: None,
        by_layer: BTreeMap::new(),
        peak: None,
        losses: vec![],
        matrices: BTreeMap::new(),
    };
    (run, all)
}

fn findings(lora: usize, full: usize) -> Findings {
    let (low, high) = (measured("2", 3), measured("final", 3));
    let arm = |arm, target: &str, right, base| ArmRuns {
        arm,
        target: target.into(),
        runs: (0..2).map(|_| measured(target, right)).collect(),
        base,
        rates: vec![],
    };
    let arms = [arm(Arm::Lora2, "2", lora, &low), arm(Arm::FullFinal, "final", full, &high)];
    let found = Findings::new(&arms, "XQuAD", &Bootstrap::default()).unwrap();
    found.report(&arms, &[]).unwrap();
    found
}

#[test]
fn the_verdict_follows_from_the_intervals() {
    let better = findings(6, 4);
    let duel = &better.duels[0];
    assert!((duel.accuracy.estimate.value - 0.2).abs() < 1e-12 && duel.accuracy.p < 1e-3);
    assert!(better.verdict.contains(": lora@2 retrieves better."), "{}", better.verdict);
    assert!(findings(4, 6).verdict.contains(": full@final retrieves better."));
    let same = findings(5, 5);
    assert!(same.verdict.contains("no difference shown") && !same.verdict.contains("better"), "{}", same.verdict);
    // Other languages over English come first; two languages, each arm.
    assert_eq!((better.primary.view.as_str(), better.primary.paragraphs.as_str()), ("english", "en"));
    assert_eq!(better.languages.len(), 4);
    assert!(better.languages.iter().all(|l| l.holm >= l.gain.p));
    assert_eq!(better.gains_csv().unwrap().lines().count(), 1 + 4);
}

/// The best of the rates has one beyond it on both sides, or the findings say at which end it is.
#[test]
fn what_training_took_is_told() {
    let base = measured("2", 3);
    let told = |found: [f64; 3]| {
        let rates = [1e-4, 1e-3, 1e-2].into_iter().zip(found).collect();
        let runs = vec![measured("2", 4), measured("2", 6)];
        let arm = ArmRuns { arm: Arm::Lora2, target: "2".into(), runs, base: &base, rates };
        Findings::new(&[arm], "XQuAD", &Bootstrap::default()).unwrap().training.remove(0)
    };
    let inside = told([0.1, 0.3, 0.2]);
    assert_eq!((inside.edge, inside.learning_rate, inside.collapsed), (None, Some(1e-3), 0));
    assert!(inside.accuracies.iter().zip([0.4, 0.6]).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", inside.accuracies);
    assert_eq!(told([0.3, 0.2, 0.1]).edge, Some(Edge::Lowest));
    assert_eq!(told([0.1, 0.2, 0.3]).edge, Some(Edge::Highest));
}
