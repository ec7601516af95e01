//! Learning rates.

use kiungo::training::schedule::Schedule;
use kiungo::training::settings::Decay;

#[test]
fn warms_up_and_decays_like_transformers() {
    let schedule = |decay| Schedule { peak: 2e-4, warmup: 50, total: 390, decay };
    let linear = schedule(Decay::Linear);
    assert_eq!(linear.rate(0), 0.0);
    assert!((linear.rate(25) - 1e-4).abs() < 1e-9);
    assert_eq!(linear.rate(50), 2e-4);
    assert!((linear.rate(220) - 1e-4).abs() < 1e-9);
    assert!(linear.rate(389) > 0.0 && linear.rate(390) == 0.0);
    assert!((schedule(Decay::Cosine).rate(220) - 1e-4).abs() < 1e-9);
    assert_eq!(schedule(Decay::Constant).rate(389), 2e-4);
}
