use crate::support::{Golden, assert_same_for_any_threads, normal, rng, tensor, tensor_as};
use half::bf16;
use kiungo::device::{DType, Tensor};
use kiungo::ops::linear::{self, Weight};
use kiungo::ops::nf4::{self, BLOCK, LEVELS, Nf4Tensor, Scales, THRESHOLDS};
use proptest::prelude::*;

const CASES: [(&str, DType); 5] = [
    ("normal.f32", DType::F32),
    ("normal.bf16", DType::Bf16),
    ("edge.f32", DType::F32),
    ("edge.bf16", DType::Bf16),
    ("q_proj0.f32", DType::F32),
];

fn input(golden: &Golden, case: &str, dtype: DType) -> Tensor {
    let name = format!("{case}.input");
    tensor_as(dtype, &golden.f32(&name), golden.shape(&name))
}

fn bytes(golden: &Golden, name: &str) -> Vec<u8> {
    golden.integers(name).iter().map(|&v| v as u8).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn codes_and_scales_are_bitsandbytes_own() {
    let golden = Golden::open("nf4.safetensors");
    assert_eq!(bits(&LEVELS), bits(&golden.f32("codebook")));
    for (case, dtype) in CASES {
        let x = input(&golden, case, dtype);
        let plain = Nf4Tensor::quantize(&x, false).unwrap();
        let Scales::Plain { absmax } = &plain.scales else { panic!("plain") };
        let absmax = absmax.to_vec::<f32>().unwrap();
        assert_eq!(bits(&absmax), bits(&golden.f32(&format!("{case}.absmax"))), "{case} absmax");
        let (found, expected) = (plain.codes.to_vec::<u8>().unwrap(), bytes(&golden, &format!("{case}.packed")));
        for (block, (found, expected)) in found.chunks(BLOCK / 2).zip(expected.chunks(BLOCK / 2)).enumerate() {
            match absmax[block] {
                // The golden codes are from the CPU, which gives a block of zeros code 7.
                0.0 => assert!(found.iter().all(|&b| b == 0) && expected.iter().all(|&b| b == 0x77)),
                _ => assert_eq!(found, expected, "{case} codes of block {block}"),
            }
        }
    }
}

/// What bitsandbytes wrote, as a tensor of ours.
fn stored(golden: &Golden, case: &str, double: bool) -> Nf4Tensor {
    let cpu = &kiungo::device::Device::Cpu;
    let shape = golden.shape(&format!("{case}.input"));
    let part = |name: &str| format!("{case}.{name}");
    let u8s = |name: &str| {
        let values = bytes(golden, &part(name));
        let n = values.len();
        Tensor::from_vec(cpu, values, &[n]).unwrap()
    };
    let scales = match double {
        false => Scales::Plain { absmax: golden.tensor(&part("absmax")) },
        true => Scales::Double {
            codes: u8s("dq.absmax_u8"),
            nested: golden.tensor(&part("dq.absmax2")),
            map: golden.tensor("dynamic_map_u8"),
            offset: golden.tensor(&part("dq.offset")),
        },
    };
    Nf4Tensor { shape: [shape[0], shape[1]], codes: u8s("packed"), scales }
}

#[test]
fn dequantised_values_are_bitsandbytes_own() {
    let golden = Golden::open("nf4.safetensors");
    for (case, dtype) in CASES {
        for (double, name) in [(false, format!("{case}.dequant")), (true, format!("{case}.dq.dequant"))] {
            let mut y = Tensor::zeros(&kiungo::device::Device::Cpu, dtype, golden.shape(&name)).unwrap();
            y.fill_byte(0xFF).unwrap();
            let stored = stored(&golden, case, double);
            match dtype {
                DType::F32 => nf4::dequantize_exact(&stored, &mut y).unwrap(),
                _ => nf4::dequantize(&stored, &mut y).unwrap(),
            }
            assert_eq!(bits(&y.to_f32().unwrap()), bits(&golden.f32(&name)), "{name}");
        }
    }
}

/// The mean of the absmax is summed in f64 here and rounded once. torch sums in f32, in an order that depends on its
/// device and vector width: of the five means here, one is a unit in the last place apart.
#[test]
fn double_quantisation_is_bitsandbytes_own() {
    let golden = Golden::open("nf4.safetensors");
    assert_eq!(bits(&nf4::dynamic_map()), bits(&golden.f32("dynamic_map_u8")));
    let ulps = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a.to_bits().abs_diff(b.to_bits())).max().unwrap();
    let mut apart = 0;
    for (case, dtype) in CASES {
        let quantized = Nf4Tensor::quantize(&input(&golden, case, dtype), true).unwrap();
        let Scales::Double { codes, nested, offset, .. } = &quantized.scales else { panic!("double") };
        let name = |part: &str| format!("{case}.dq.{part}");
        let differ = ulps(&offset.to_vec().unwrap(), &golden.f32(&name("offset")));
        assert!(differ <= 1, "{case} offset");
        apart += differ;
        assert!(ulps(&nested.to_vec().unwrap(), &golden.f32(&name("absmax2"))) <= differ, "{case} nested absmax");
        assert_eq!(codes.to_vec::<u8>().unwrap(), bytes(&golden, &name("absmax_u8")), "{case} absmax codes");
    }
    assert_eq!(apart, 1);
}

#[test]
fn levels_are_fixed_points_and_thresholds_are_strict() {
    let mut x: Vec<f32> = LEVELS.repeat(4);
    let levels = Nf4Tensor::quantize(&tensor(&x, &[1, 64]), false).unwrap();
    assert_eq!(levels.to_f32().unwrap(), x);
    // A threshold itself takes the lower code, the next float up the higher one.
    x = vec![1.0; 64];
    for (i, t) in THRESHOLDS.into_iter().enumerate() {
        (x[2 * i], x[2 * i + 1]) = (t, f32::from_bits(if t > 0.0 { t.to_bits() + 1 } else { t.to_bits() - 1 }));
    }
    let codes = Nf4Tensor::quantize(&tensor(&x, &[1, 64]), false).unwrap().codes.to_vec::<u8>().unwrap();
    let expected: Vec<u8> = (0..15).map(|i| i << 4 | (i + 1)).chain([0xFF; 17]).collect();
    assert_eq!(codes, expected);
}

#[test]
fn a_linear_layer_computes_with_the_bf16_rounded_weight() {
    let (m, n, k) = (5, 24, 40);
    let mut rng = rng(1);
    let (w, x, dy) = (normal(&mut rng, n * k), normal(&mut rng, m * k), normal(&mut rng, m * n));
    for double in [false, true] {
        let quantized = Nf4Tensor::quantize(&tensor(&w, &[n, k]), double).unwrap();
        let rounded: Vec<f32> = quantized.to_f32().unwrap().iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        let (dense, nf4) = (Weight::Dense(tensor(&rounded, &[n, k])), Weight::Nf4(quantized));
        assert_eq!(nf4.shape(), [n, k]);
        let forward = |w: &Weight| {
            let mut y = crate::support::poisoned(&[m, n]);
            linear::forward(&tensor(&x, &[m, k]), w, &mut y).unwrap();
            y.to_vec::<f32>().unwrap()
        };
        let backward = |w: &Weight| {
            let mut dx = tensor(&x, &[m, k]);
            linear::backward_input(&tensor(&dy, &[m, n]), w, &mut dx, true).unwrap();
            dx.to_vec::<f32>().unwrap()
        };
        assert_eq!(bits(&forward(&nf4)), bits(&forward(&dense)));
        assert_eq!(bits(&backward(&nf4)), bits(&backward(&dense)));
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let w = normal(&mut rng(2), 96 * 128);
    assert_same_for_any_threads("nf4", || {
        Nf4Tensor::quantize(&tensor(&w, &[96, 128]), true).unwrap().to_f32().unwrap()
    });
}

#[test]
fn a_matrix_of_part_blocks_is_refused() {
    let error = Nf4Tensor::quantize(&tensor(&[0.0; 40], &[5, 8]), false).unwrap_err().to_string();
    assert_eq!(error, "nf4: weight has shape [5, 8], expected a number of values that is a multiple of 64");
}

proptest! {
    /// Every level of a block survives a round trip, wherever it lies, and every value is at most half the widest gap
    /// between levels away from what it becomes.
    #[test]
    fn quantising_what_was_dequantised_changes_nothing(
        x in prop::collection::vec(prop_oneof![4 => -3.0f32..3.0, 1 => -1e4f32..1e4, 1 => -1e-4f32..1e-4], 3 * BLOCK),
    ) {
        let first = Nf4Tensor::quantize(&tensor(&x, &[3, BLOCK]), false).unwrap();
        let dequantised = first.to_f32().unwrap();
        let again = Nf4Tensor::quantize(&tensor(&dequantised, &[3, BLOCK]), false).unwrap();
        prop_assert_eq!(first.codes.to_vec::<u8>().unwrap(), again.codes.to_vec::<u8>().unwrap());
        prop_assert_eq!(bits(&dequantised), bits(&again.to_f32().unwrap()));
        let half_gap = LEVELS.windows(2).map(|l| l[1] - l[0]).fold(0.0, f32::max) / 2.0;
        for (x, y) in x.chunks(BLOCK).zip(dequantised.chunks(BLOCK)) {
            let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (x, y) in x.iter().zip(y) {
                prop_assert!((x - y).abs() <= 1.0001 * half_gap * absmax, "{x} became {y}, absmax {absmax}");
            }
        }
    }
}
