use super::{compare, compare_large};
use kiungo::ops::normal::{Normal, fill};

#[test]
fn draws_what_the_cpu_draws() {
    let case = |n: usize| {
        move |run: &super::Run| {
            let mut y = run.poisoned(&[n]);
            fill(Normal { seed: 0x1234_5678_9abc_def0, stream: 7, scale: 0.02 }, &mut y).unwrap();
            vec![y]
        }
    };
    for n in [0, 1, 7, 8, 1001] {
        compare(&format!("normal, {n} values"), 1e-6, case(n));
    }
    compare_large("normal, many values", 1e-6, || case((1 << 22) + 3));
}
