use super::compare;
use crate::support::{normal, rng};
use kiungo::ops::clip;

#[test]
fn the_squared_norm_is_added_and_the_gradient_scaled() {
    for n in [1, 7, 1000, 5003] {
        let gradient = normal(&mut rng(n as u64), n);
        compare("clip", 1e-6, |run| {
            let mut total = run.f32(&[2.0], &[1]);
            let mut scaled = run.f32(&gradient, &[n]);
            clip::add_squared_norm(&scaled, &mut total).unwrap();
            clip::scale(&mut scaled, 0.25).unwrap();
            vec![total, scaled]
        });
    }
}
