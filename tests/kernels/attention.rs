use super::{Run, compare};
use crate::ops::attention::{inputs, reference};
use crate::support::{assert_as_good, fast_gpus, gpus, normal_bf16, rng, widen};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::attention::{self, Heads};
use kiungo::ops::sequences::Sequences;

const fn grouped(query: usize, key_value: usize, dim: usize) -> Heads {
    Heads { query, key_value, dim }
}

#[test]
fn ordinary_cores() {
    let cases: [(&[usize], Heads); 5] = [
        (&[1], grouped(1, 1, 8)),
        (&[5, 1, 17], grouped(4, 2, 16)),
        (&[3, 9], grouped(3, 1, 64)),
        (&[2, 6], grouped(2, 2, 100)),
        (&[4], grouped(2, 1, 130)),
    ];
    for (lengths, heads) in cases {
        let tokens = lengths.iter().sum();
        let (queries, keys) = ([tokens, heads.query * heads.dim], [tokens, heads.key_value * heads.dim]);
        let mut rng = rng(1);
        let [q, d_o] = [0; 2].map(|_| normal_bf16(&mut rng, queries[0] * queries[1]));
        let [k, v] = [0; 2].map(|_| normal_bf16(&mut rng, keys[0] * keys[1]));
        compare(&format!("attention {lengths:?} {heads:?}"), 2e-6, |run| {
            let sequences = Sequences::new(run.device, lengths).unwrap();
            let (q, k, v) = (run.tensor(&q, &queries), run.tensor(&k, &keys), run.tensor(&v, &keys));
            let [mut lse, mut delta] = [0; 2].map(|_| run.poisoned_as(DType::F32, &[tokens, heads.query]));
            let [mut o, mut dq] = [0; 2].map(|_| run.poisoned(&queries));
            let [mut dk, mut dv] = [0; 2].map(|_| run.poisoned(&keys));
            attention::forward(&q, &k, &v, &sequences, heads, &mut o, &mut lse).unwrap();
            let d_o = run.tensor(&d_o, &queries);
            attention::backward(&d_o, &q, &k, &v, &o, &lse, &sequences, heads, &mut dq, &mut dk, &mut dv, &mut delta)
                .unwrap();
            vec![o, lse, dq, dk, dv]
        });
    }
}

/// A batch on a device.
struct Batch<'a> {
    run: Run<'a>,
    heads: Heads,
    sequences: Sequences,
    /// q, k, v and d_o.
    inputs: [Tensor; 4],
}

impl<'a> Batch<'a> {
    fn new(device: &'a Device, dtype: DType, inputs: &[Vec<f32>; 4], lengths: &[usize], heads: Heads) -> Batch<'a> {
        let run = Run { device, dtype };
        let tokens: usize = lengths.iter().sum();
        let sequences = Sequences::new(device, lengths).unwrap();
        let inputs = inputs.each_ref().map(|x| run.tensor(x, &[tokens, x.len() / tokens]));
        Batch { run, heads, sequences, inputs }
    }

    /// o, lse, dq, dk and dv.
    fn outputs(&self) -> [Tensor; 5] {
        let (run, heads, sequences) = (&self.run, self.heads, &self.sequences);
        let [q, k, v, d_o] = &self.inputs;
        let [mut lse, mut delta] = [0; 2].map(|_| run.poisoned_as(DType::F32, &[q.rows(), heads.query]));
        let [mut o, mut dq] = [0; 2].map(|_| run.poisoned(q.shape()));
        let [mut dk, mut dv] = [0; 2].map(|_| run.poisoned(k.shape()));
        attention::forward(q, k, v, sequences, heads, &mut o, &mut lse).unwrap();
        attention::backward(d_o, q, k, v, &o, &lse, sequences, heads, &mut dq, &mut dk, &mut dv, &mut delta).unwrap();
        [o, lse, dq, dk, dv]
    }

    fn values(&self) -> [Vec<f32>; 5] {
        self.outputs().map(|t| t.to_f32().unwrap())
    }
}

/// The bf16 kernels against the CPU's bf16, both measured against float64, or against the CPU's f32 where float64 would
/// take too long. Further runs must give the same bytes.
fn check(devices: &[Device], lengths: &[usize], heads: Heads, repeats: usize) {
    const NAMES: [&str; 5] = ["o", "lse", "dq", "dk", "dv"];
    let tokens = lengths.iter().sum();
    let x = inputs(tokens as u64, tokens, heads);
    let on_cpu = |dtype| Batch::new(&Device::Cpu, dtype, &x, lengths, heads).values();
    let textbook = on_cpu(DType::Bf16);
    let exact = if tokens <= 300 {
        let [q, k, v, d_o] = [0, 1, 2, 3].map(|i| widen(&x[i]));
        let r = reference(&q, &k, &v, &d_o, lengths, heads);
        [r.o, r.lse, r.dq, r.dk, r.dv]
    } else {
        on_cpu(DType::F32).map(|x| widen(&x))
    };
    for device in devices {
        let batch = Batch::new(device, DType::Bf16, &x, lengths, heads);
        let first = batch.outputs();
        let found = first.each_ref().map(|t| t.to_f32().unwrap());
        for (i, name) in NAMES.into_iter().enumerate() {
            let what = format!("{name} of {heads:?} {lengths:?} on {device}");
            if exact[i].iter().all(|x| x.abs() < 1e-9) {
                // One token alone: its weight is 1 whatever its score is.
                assert!(found[i].iter().all(|x| x.abs() < 1e-5), "{what}");
            } else {
                assert_as_good(&what, &found[i], &textbook[i], &exact[i], 1e-6);
            }
        }
        let first = first.map(|t| t.to_bytes().unwrap());
        for repeat in 1..repeats {
            for ((name, first), again) in NAMES.iter().zip(&first).zip(batch.outputs()) {
                let same = *first == again.to_bytes().unwrap();
                assert!(same, "{name} of {heads:?} {lengths:?} on {device}: run {repeat} differs");
            }
        }
    }
}

/// Tiles for short and for long sequences, tiles that several sequences share, and tiles that end beyond the last row.
#[test]
fn tensor_cores() {
    let cases: [(&[usize], Heads); 13] = [
        (&[1], grouped(1, 1, 64)),
        (&[1], grouped(4, 1, 128)),
        (&[5, 1, 17], grouped(4, 1, 128)),
        (&[8; 9], grouped(4, 2, 64)),
        (&[16, 2, 16, 15, 1, 16, 16, 3], grouped(4, 1, 128)),
        (&[32, 1, 31, 30, 4, 32], grouped(3, 1, 128)),
        (&[32, 17, 1, 2, 32, 32, 9], grouped(2, 2, 64)),
        (&[8, 16, 1, 33], grouped(9, 3, 64)),
        (&[64, 2], grouped(2, 2, 128)),
        (&[70, 3, 90], grouped(4, 1, 128)),
        (&[130, 2, 129], grouped(2, 2, 64)),
        (&[40, 66], grouped(8, 1, 128)),
        (&[3, 200], grouped(6, 2, 64)),
    ];
    for (lengths, heads) in cases {
        check(&gpus(), lengths, heads, 2);
    }
}

#[test]
fn long_sequences_on_a_gpu_and_fifty_times_the_same() {
    let gpus = fast_gpus();
    if gpus.is_empty() {
        return;
    }
    // The CPU's reference takes its time over the longest: two kinds of heads show what they show. Hopper's own kernels
    // run where there is a tile for each multiprocessor: with groups of 4 and of 8 below, and with three key heads.
    let (longest, long) = ([1, 3000, 17, 2, 511, 128], [1, 64, 1025, 300, 2, 511, 128, 1, 129]);
    for heads in [grouped(4, 1, 128), grouped(3, 1, 64)] {
        check(&gpus, &longest, heads, 50);
    }
    for heads in [grouped(8, 2, 128), grouped(9, 3, 64), grouped(4, 4, 64), grouped(2, 2, 128), grouped(8, 1, 64)] {
        check(&gpus, &long, heads, 50);
    }
    for lengths in [[8; 128], [16; 128], [32; 128]] {
        check(&gpus, &lengths, grouped(8, 2, 128), 50);
        check(&gpus, &lengths, grouped(9, 3, 64), 50);
    }
}
