//! Launches are named when one of them has failed.

use kiungo::device::Launch;
use kiungo::device::cuda::recent::{MOST, Recent};

#[test]
fn the_last_launches_are_named_newest_first() {
    let recent = Recent::default();
    assert_eq!(recent.suspects("cuStreamSynchronize"), "cuStreamSynchronize");
    recent.note(&Launch::new("gemm", "old", [1, 1, 1], 32, 0u32));
    for i in 0..MOST as u32 {
        recent.note(&Launch::new("rmsnorm", "rmsnorm_forward", [i, 2, 1], 256, 0u32));
    }
    let words = recent.suspects("cuStreamSynchronize");
    assert!(!words.contains("old"), "{words}");
    let expected = "cuStreamSynchronize: a kernel failed, one of the last launched (rmsnorm_forward with grid 7x2x1 of 256, rmsnorm_forward with grid 6x2x1 of 256, ";
    assert!(words.starts_with(expected), "{words}");
}
