use kiungo::ops::philox::{Dropout, philox};

/// The known answers of Random123 (kat_vectors, philox4x32 10).
#[test]
fn philox_gives_the_known_answers() {
    let ones = u32::MAX;
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
    assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

#[test]
fn dropout_keeps_its_share_and_repeats() {
    for probability in [0.0, 0.05, 0.5, 0.9] {
        let dropout = Dropout { probability, seed: 7, stream: 3, step: 11, first: 0 };
        let n = 100_000u64;
        let kept = (0..n).filter(|&i| dropout.keep(i)).count() as f64;
        let expected = n as f64 * f64::from(1.0 - probability);
        let deviation = (n as f64 * f64::from(probability * (1.0 - probability))).sqrt();
        assert!((kept - expected).abs() <= 4.0 * deviation, "{probability}: kept {kept} of {n}");
    }
}

#[test]
fn applying_a_mask_agrees_with_asking_for_each_element() {
    let dropout = Dropout { probability: 0.3, seed: u64::MAX - 5, stream: 1, step: 2, first: 0 };
    // From an index that is no multiple of four, and across 2^34, where the counter's second word begins.
    for first in [0u64, 5, (1 << 34) - 3] {
        let from: Vec<f32> = (1..=23).map(|i| i as f32).collect();
        let mut to = vec![f32::NAN; from.len()];
        dropout.apply(first, &from, &mut to);
        for (i, (from, to)) in from.iter().zip(&to).enumerate() {
            let expected = if dropout.keep(first + i as u64) { from * dropout.scale() } else { 0.0 };
            assert_eq!(*to, expected);
        }
    }
}

#[test]
fn streams_and_steps_draw_apart() {
    let base = Dropout { probability: 0.5, seed: 1, stream: 0, step: 0, first: 0 };
    let bits = |d: Dropout| (0..64).map(|i| d.keep(i)).collect::<Vec<_>>();
    let others = [Dropout { stream: 1, ..base }, Dropout { step: 1, ..base }, Dropout { seed: 2, ..base }];
    assert!(others.into_iter().all(|d| bits(d) != bits(base)));
}
