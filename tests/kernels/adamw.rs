use super::{LARGE, compare, compare_large};
use crate::support::{normal, rng};
use kiungo::ops::adamw::{self, AdamW};

#[test]
fn steps_are_those_of_the_cpu_to_the_bit() {
    let case = |shape: [usize; 2]| {
        let mut rng = rng(1);
        let [w, g, m, v] = [0; 4].map(|_| normal(&mut rng, shape[0] * shape[1]));
        let v: Vec<f32> = v.into_iter().map(f32::abs).collect();
        move |run: &super::Run| {
            let [mut w, mut m, mut v] = [&w, &m, &v].map(|data| run.f32(data, &shape));
            let (g, mut copy) = (run.f32(&g, &shape), run.poisoned(&shape));
            let adamw = AdamW::default();
            adamw::step(&adamw, 3, &mut w, &g, &mut m, &mut v, Some(&mut copy)).unwrap();
            adamw::step(&adamw, 4, &mut w, &g, &mut m, &mut v, None).unwrap();
            vec![w, m, v, copy]
        }
    };
    for shape in [[1, 1], [3, 7], [5, 576]] {
        compare(&format!("adamw {shape:?}"), 0.0, case(shape));
    }
    for shape in LARGE {
        compare_large(&format!("adamw {shape:?}"), 0.0, || case(shape));
    }
}
