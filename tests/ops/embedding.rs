use crate::support::{assert_close, normal, normal_bf16, poisoned, poisoned_as, rng, tensor, tensor_as};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::embedding;

const IDS: [u32; 5] = [4, 0, 4, 2, 4];
const VOCAB: usize = 6;
const HIDDEN: usize = 7;

fn ids() -> Tensor {
    Tensor::from_slice(&Device::Cpu, &IDS, &[IDS.len()]).unwrap()
}

#[test]
fn forward_copies_rows_in_every_type() {
    let table = normal_bf16(&mut rng(1), VOCAB * HIDDEN);
    let expected: Vec<f32> = IDS.iter().flat_map(|&id| table[id as usize * HIDDEN..][..HIDDEN].to_vec()).collect();
    for stored in [DType::F32, DType::Bf16] {
        let table = tensor_as(stored, &table, &[VOCAB, HIDDEN]);
        for dtype in [DType::F32, DType::Bf16] {
            let mut y = poisoned_as(dtype, &[IDS.len(), HIDDEN]);
            embedding::forward(&table, &ids(), &mut y).unwrap();
            assert_eq!(y.to_f32().unwrap(), expected, "{stored} to {dtype}");
        }
    }
}

#[test]
fn backward_adds_to_the_rows_that_were_read() {
    let mut rng = rng(2);
    let (before, dy) = (normal(&mut rng, VOCAB * HIDDEN), normal(&mut rng, IDS.len() * HIDDEN));
    let mut expected: Vec<f64> = before.iter().map(|&v| v.into()).collect();
    for (t, &id) in IDS.iter().enumerate() {
        for i in 0..HIDDEN {
            expected[id as usize * HIDDEN + i] += dy[t * HIDDEN + i] as f64;
        }
    }
    let mut dtable = tensor(&before, &[VOCAB, HIDDEN]);
    embedding::backward(&tensor(&dy, &[IDS.len(), HIDDEN]), &ids(), &mut dtable).unwrap();
    assert_close("dtable", dtable.as_slice::<f32>().unwrap(), &expected, 1e-6);
}

#[test]
fn backward_reads_bf16() {
    let dy = normal_bf16(&mut rng(3), HIDDEN);
    let id = Tensor::from_slice(&Device::Cpu, &[5u32], &[1]).unwrap();
    let mut dtable = Tensor::zeros(&Device::Cpu, DType::F32, &[VOCAB, HIDDEN]).unwrap();
    let dy_bf16 = tensor_as(DType::Bf16, &dy, &[1, HIDDEN]);
    embedding::backward(&dy_bf16, &id, &mut dtable).unwrap();
    assert_eq!(dtable.to_vec::<f32>().unwrap()[5 * HIDDEN..], dy);
}

#[test]
fn an_id_beyond_the_table_is_named() {
    let table = Tensor::zeros(&Device::Cpu, DType::F32, &[4, HIDDEN]).unwrap();
    let error = embedding::forward(&table, &ids(), &mut poisoned(&[IDS.len(), HIDDEN])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "embedding: token 0 has id 4, and the table has 4 rows: is the tokenizer the model's own?"
    );
}

#[test]
fn other_shapes_and_types_are_refused() {
    let table = Tensor::zeros(&Device::Cpu, DType::F32, &[VOCAB, HIDDEN]).unwrap();
    let error = embedding::forward(&table, &ids(), &mut poisoned(&[4, HIDDEN])).unwrap_err();
    assert_eq!(error.to_string(), "embedding: y has shape [4, 7], expected [5, 7]");
    let mut dtable = Tensor::zeros(&Device::Cpu, DType::Bf16, &[VOCAB, HIDDEN]).unwrap();
    let error = embedding::backward(&poisoned(&[5, HIDDEN]), &ids(), &mut dtable).unwrap_err();
    assert_eq!(error.to_string(), "embedding backward: dtable is bf16, expected f32");
}
