use crate::support::{assert_close, assert_gradient, normal, poisoned, rng, tensor, widen};
use half::bf16;
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::sequences::Sequences;

const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::MeanNoSink, Pooling::Last];
const LENGTHS: [usize; 5] = [3, 1, 8, 2, 40];
const TOKENS: usize = 54;

/// The definition: each token's weight in its sequence's vector.
fn reference(h: &[f64], hidden: usize, pooling: Pooling) -> Vec<f64> {
    let mut rows = h.chunks(hidden);
    let mut y = Vec::new();
    for length in LENGTHS {
        let mut sum = vec![0.0; hidden];
        for position in 0..length {
            let weight = match pooling {
                Pooling::Mean => 1.0 / length as f64,
                Pooling::MeanNoSink if length == 1 => 1.0,
                Pooling::MeanNoSink if position == 0 => 0.0,
                Pooling::MeanNoSink => 1.0 / (length - 1) as f64,
                Pooling::Last => f64::from(u8::from(position == length - 1)),
            };
            sum.iter_mut().zip(rows.next().unwrap()).for_each(|(s, h)| *s += weight * h);
        }
        y.extend(sum);
    }
    y
}

#[test]
fn forward_matches_float64() {
    let sequences = Sequences::new(&Device::Cpu, &LENGTHS).unwrap();
    for hidden in [1, 37, 64] {
        let h = normal(&mut rng(1), TOKENS * hidden);
        for pooling in ALL {
            let mut y = poisoned(&[LENGTHS.len(), hidden]);
            pooling::forward(&tensor(&h, &[TOKENS, hidden]), &sequences, pooling, &mut y).unwrap();
            assert_close("y", y.as_slice::<f32>().unwrap(), &reference(&widen(&h), hidden, pooling), 1e-6);
        }
    }
}

#[test]
fn backward_matches_central_differences() {
    let sequences = Sequences::new(&Device::Cpu, &LENGTHS).unwrap();
    let hidden = 5;
    let mut rng = rng(2);
    let (h, dy) = (normal(&mut rng, TOKENS * hidden), normal(&mut rng, LENGTHS.len() * hidden));
    for pooling in ALL {
        let mut dh = poisoned(&[TOKENS, hidden]);
        pooling::backward(&tensor(&dy, &[LENGTHS.len(), hidden]), &sequences, pooling, &mut dh).unwrap();
        assert_gradient("dh", &widen(&h), dh.as_slice().unwrap(), 1e-6, |h| {
            reference(h, hidden, pooling).iter().zip(&dy).map(|(y, &d)| y * d as f64).sum()
        });
    }
}

#[test]
fn bf16_rounds_only_what_it_stores() {
    let sequences = Sequences::new(&Device::Cpu, &LENGTHS).unwrap();
    let hidden = 9;
    let h: Vec<f32> = normal(&mut rng(3), TOKENS * hidden).iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    let narrow = Tensor::from_f32(&Device::Cpu, DType::Bf16, h.clone(), &[TOKENS, hidden]).unwrap();
    let mut y = poisoned(&[LENGTHS.len(), hidden]);
    pooling::forward(&narrow, &sequences, Pooling::MeanNoSink, &mut y).unwrap();
    assert_close("y", y.as_slice::<f32>().unwrap(), &reference(&widen(&h), hidden, Pooling::MeanNoSink), 1e-6);

    let (mut wide, mut dh) = (poisoned(&[TOKENS, hidden]), narrow);
    dh.fill_byte(0xFF).unwrap();
    pooling::backward(&y, &sequences, Pooling::MeanNoSink, &mut wide).unwrap();
    pooling::backward(&y, &sequences, Pooling::MeanNoSink, &mut dh).unwrap();
    let rounded: Vec<f32> = wide.to_f32().unwrap().iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    assert_eq!(dh.to_f32().unwrap(), rounded);
}

#[test]
fn names_and_wrong_shapes() {
    for pooling in ALL {
        assert_eq!(pooling.to_string().parse(), Ok(pooling));
    }
    assert!("max".parse::<Pooling>().unwrap_err().contains("mean-no-sink"));
    let sequences = Sequences::new(&Device::Cpu, &[2, 3]).unwrap();
    let error = pooling::forward(&tensor(&[0.0; 8], &[4, 2]), &sequences, Pooling::Mean, &mut poisoned(&[2, 2]));
    assert_eq!(error.unwrap_err().to_string(), "pooling: h has shape [4, 2], expected [5, 2]");
}
