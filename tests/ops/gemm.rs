use crate::support::{
    assert_bf16, assert_close, assert_same_for_any_threads, normal, normal_bf16, poisoned, poisoned_as, rng, tensor,
    tensor_as, widen,
};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::gemm::{Layout, gemm};

const LAYOUTS: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];
const SIZES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 33, 65],
    [33, 1, 7],
    [3, 5, 1],
    [2, 3, 2],
    [17, 31, 129],
    [64, 64, 64],
    [129, 70, 300],
    [5, 576, 1536],
];

fn shapes(layout: Layout, [m, n, k]: [usize; 3]) -> ([usize; 2], [usize; 2]) {
    match layout {
        Layout::Nt => ([m, k], [n, k]),
        Layout::Nn => ([m, k], [k, n]),
        Layout::Tn => ([k, m], [k, n]),
    }
}

fn reference(layout: Layout, [m, n, k]: [usize; 3], a: &[f64], b: &[f64]) -> Vec<f64> {
    let a_at = |i: usize, p: usize| if layout == Layout::Tn { a[p * m + i] } else { a[i * k + p] };
    let b_at = |p: usize, j: usize| if layout == Layout::Nt { b[j * k + p] } else { b[p * n + j] };
    let element = |i: usize, j: usize| (0..k).map(|p| a_at(i, p) * b_at(p, j)).sum();
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

#[test]
fn matches_float64_and_adds_where_asked() {
    for layout in LAYOUTS {
        for sizes @ [m, n, k] in SIZES {
            let mut rng = rng(1);
            let (a, b, before) = (normal(&mut rng, m * k), normal(&mut rng, k * n), normal(&mut rng, m * n));
            let (a_shape, b_shape) = shapes(layout, sizes);
            let expected = reference(layout, sizes, &widen(&a), &widen(&b));
            let (a, b) = (tensor(&a, &a_shape), tensor(&b, &b_shape));
            let mut c = poisoned(&[m, n]);
            gemm(layout, &a, &b, &mut c, false).unwrap();
            assert_close(&format!("{layout:?} {sizes:?}"), c.as_slice::<f32>().unwrap(), &expected, 1e-6);

            let mut c = tensor(&before, &[m, n]);
            gemm(layout, &a, &b, &mut c, true).unwrap();
            let expected: Vec<f64> = expected.iter().zip(&before).map(|(e, &b)| e + b as f64).collect();
            assert_close(&format!("{layout:?} {sizes:?} added"), c.as_slice::<f32>().unwrap(), &expected, 1e-6);
        }
    }
}

#[test]
fn bf16_operands_are_exact_and_bf16_results_rounded_once() {
    let sizes @ [m, n, k] = [37, 53, 200];
    let mut rng = rng(2);
    let (a, b, before) = (normal_bf16(&mut rng, m * k), normal_bf16(&mut rng, k * n), normal_bf16(&mut rng, m * n));
    for layout in LAYOUTS {
        let (a_shape, b_shape) = shapes(layout, sizes);
        let exact = reference(layout, sizes, &widen(&a), &widen(&b));
        let added: Vec<f64> = exact.iter().zip(&before).map(|(e, &b)| e + b as f64).collect();
        for (a_type, b_type) in [(DType::F32, DType::Bf16), (DType::Bf16, DType::F32), (DType::Bf16, DType::Bf16)] {
            let (a, b) = (tensor_as(a_type, &a, &a_shape), tensor_as(b_type, &b, &b_shape));
            let mut c = poisoned(&[m, n]);
            gemm(layout, &a, &b, &mut c, false).unwrap();
            assert_close(&format!("{a_type} {b_type}"), c.as_slice::<f32>().unwrap(), &exact, 1e-6);
            let mut c = poisoned_as(DType::Bf16, &[m, n]);
            gemm(layout, &a, &b, &mut c, false).unwrap();
            assert_bf16("replaced", &c, &exact);
            let mut c = tensor_as(DType::Bf16, &before, &[m, n]);
            gemm(layout, &a, &b, &mut c, true).unwrap();
            assert_bf16("added", &c, &added);
        }
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    for sizes @ [m, n, k] in [[1, 700, 900], [150, 577, 600], [1000, 64, 500], [77, 1100, 90], [512, 520, 1030]] {
        let mut rng = rng(3);
        let (a, b) = (normal(&mut rng, m * k), normal(&mut rng, k * n));
        for layout in LAYOUTS {
            let (a_shape, b_shape) = shapes(layout, sizes);
            let (a, b) = (tensor(&a, &a_shape), tensor(&b, &b_shape));
            assert_same_for_any_threads(&format!("{layout:?} {sizes:?}"), || {
                let mut c = poisoned(&[m, n]);
                gemm(layout, &a, &b, &mut c, false).unwrap();
                c.to_vec().unwrap()
            });
        }
    }
}

#[test]
fn nothing_summed_is_zero() {
    let mut c = poisoned(&[2, 3]);
    gemm(Layout::Nt, &tensor(&[], &[2, 0]), &tensor(&[], &[3, 0]), &mut c, false).unwrap();
    assert_eq!(c.to_vec::<f32>().unwrap(), [0.0; 6]);
    let mut c = tensor(&[1.0; 6], &[2, 3]);
    gemm(Layout::Tn, &tensor(&[], &[0, 2]), &tensor(&[], &[0, 3]), &mut c, true).unwrap();
    assert_eq!(c.to_vec::<f32>().unwrap(), [1.0; 6]);
    gemm(Layout::Nn, &tensor(&[], &[0, 2]), &tensor(&[0.0; 6], &[2, 3]), &mut tensor(&[], &[0, 3]), false).unwrap();
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape).unwrap();
    let error = |layout, a: &[usize], b: &[usize], c: &[usize]| {
        gemm(layout, &zeros(a), &zeros(b), &mut zeros(c), false).unwrap_err().to_string()
    };
    assert_eq!(error(Layout::Nt, &[2, 3], &[4, 5], &[2, 4]), "gemm: b has shape [4, 5], expected [4, 3]");
    assert_eq!(error(Layout::Nn, &[2, 3], &[4, 5], &[2, 5]), "gemm: b has shape [4, 5], expected [3, 5]");
    assert_eq!(error(Layout::Tn, &[2, 3], &[2, 5], &[2, 5]), "gemm: c has shape [2, 5], expected [3, 5]");
    assert_eq!(error(Layout::Nt, &[6], &[4, 5], &[2, 4]), "gemm: a has shape [6], expected two dimensions");
    let bytes = Tensor::zeros(&Device::Cpu, DType::U8, &[4, 3]).unwrap();
    let error = gemm(Layout::Nt, &zeros(&[2, 3]), &bytes, &mut zeros(&[2, 4]), false).unwrap_err();
    assert_eq!(error.to_string(), "gemm: b is u8, expected f32 or bf16");
}
