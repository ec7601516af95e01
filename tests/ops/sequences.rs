use kiungo::device::{Device, Staging};
use kiungo::ops::sequences::{Padded, Sequences};
use proptest::prelude::*;

#[test]
fn offsets_and_positions_of_three() {
    let s = Sequences::new(&Device::Cpu, &[2, 1, 3]).unwrap();
    assert_eq!((s.count(), s.tokens(), s.max_length()), (3, 6, 3));
    assert_eq!(s.offsets().to_vec::<u32>().unwrap(), [0, 2, 3, 6]);
    assert_eq!(s.host_offsets(), [0, 2, 3, 6]);
    assert_eq!(s.positions().to_vec::<u32>().unwrap(), [0, 1, 0, 0, 1, 2]);
    assert_eq!(s.ends().to_vec::<u32>().unwrap(), [2, 2, 3, 6, 6, 6]);
}

#[test]
fn padding_is_tokens_that_are_alone() {
    let device = Device::Cpu;
    let mut staging = Staging::new(&device, 1, 0).unwrap();
    let mut s = Sequences::with_capacity(&device, 3, 8).unwrap();
    s.set_padded(&mut staging, &[2, 3], Some(Padded { tokens: 8, longest: 4 })).unwrap();
    assert_eq!((s.count(), s.tokens(), s.max_length()), (2, 8, 4));
    assert_eq!(s.positions().to_vec::<u32>().unwrap(), [0, 1, 0, 1, 2, 0, 0, 0]);
    assert_eq!(s.ends().to_vec::<u32>().unwrap(), [2, 2, 5, 5, 5, 6, 7, 8]);
    assert_eq!(s.ranges().collect::<Vec<_>>(), [0..2, 2..5, 5..6, 6..7, 7..8]);
    let error = s.set_padded(&mut staging, &[5, 3], Some(Padded { tokens: 8, longest: 4 })).unwrap_err().to_string();
    assert_eq!(error, "sequences: 8 tokens, 5 the longest, cannot be padded to Padded { tokens: 8, longest: 4 }");
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let error = |lengths: &[usize]| Sequences::new(&Device::Cpu, lengths).unwrap_err().to_string();
    assert_eq!(error(&[]), "sequences: there are none");
    assert_eq!(error(&[4, 0]), "sequences: sequence 1 has no tokens");
    assert_eq!(
        error(&[usize::MAX, 2]),
        "sequences: 18446744073709551615 tokens in one batch, at most 4294967295 can be packed"
    );
}

proptest! {
    #[test]
    fn every_token_belongs_to_one_sequence(lengths in prop::collection::vec(1usize..50, 1..40)) {
        let s = Sequences::new(&Device::Cpu, &lengths).unwrap();
        let positions = s.positions().to_vec::<u32>().unwrap();
        let mut seen = 0;
        for (range, &length) in s.ranges().zip(&lengths) {
            prop_assert_eq!(range.clone(), seen..seen + length);
            prop_assert!(positions[range].iter().copied().eq(0..length as u32));
            seen += length;
        }
        prop_assert_eq!(seen, s.tokens());
        prop_assert_eq!(s.max_length(), lengths.iter().copied().max().unwrap());
    }
}
