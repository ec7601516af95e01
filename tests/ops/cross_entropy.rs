use crate::support::{
    Golden, assert_bf16, assert_close, assert_gradient, assert_same_for_any_threads, normal, normal_bf16, poisoned,
    poisoned_as, rng, tensor, tensor_as, widen,
};
use kiungo::device::{DType, Device, Tensor};
use kiungo::ops::cross_entropy::{self, IGNORE};
use rand::Rng;

fn labels(labels: &[u32]) -> Tensor {
    Tensor::from_slice(&Device::Cpu, labels, &[labels.len()]).unwrap()
}

/// The definition, in float64.
fn reference(hidden: &[f64], head: &[f64], h: usize, labels: &[u32]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let terms: Vec<f64> = hidden
        .chunks(h)
        .zip(labels)
        .filter(|&(_, &label)| label != IGNORE)
        .map(|(x, &label)| {
            let logits: Vec<f64> = head.chunks(h).map(|w| dot(x, w)).collect();
            logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[label as usize]
        })
        .collect();
    terms.iter().sum::<f64>() / terms.len() as f64
}

/// Loss, `dhidden`, and what was added to a `dhead` of ones.
fn run(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> (Vec<f32>, Tensor, Vec<f32>) {
    let (mut loss, mut dhidden) = (poisoned(&[1]), poisoned_as(hidden.dtype(), hidden.shape()));
    let mut dhead = tensor(&vec![1.0; head.len()], head.shape());
    let gradients = (Some(&mut dhidden), Some(&mut dhead));
    cross_entropy::forward_backward(hidden, head, &labels(targets), &mut loss, gradients.0, gradients.1).unwrap();
    (loss.to_f32().unwrap(), dhidden, dhead.to_f32().unwrap().iter().map(|d| d - 1.0).collect())
}

#[test]
fn loss_and_gradients_match_float64() {
    let (tokens, h, vocab) = (9, 5, 23);
    let mut rng = rng(1);
    let (x, w) = (normal(&mut rng, tokens * h), normal(&mut rng, vocab * h));
    let targets: Vec<u32> =
        (0..tokens).map(|t| if t % 4 == 1 { IGNORE } else { rng.random_range(0..vocab as u32) }).collect();
    let (loss, dx, dw) = run(&tensor(&x, &[tokens, h]), &tensor(&w, &[vocab, h]), &targets);
    let (x, w) = (widen(&x), widen(&w));
    assert_close("loss", &loss, &[reference(&x, &w, h, &targets)], 1e-6);
    assert_gradient("dhidden", &x, dx.as_slice().unwrap(), 1e-6, |x| reference(x, &w, h, &targets));
    assert_gradient("dhead", &w, &dw, 3e-6, |w| reference(&x, w, h, &targets));
}

#[test]
fn a_model_s_loss_and_head_gradient_match_golden() {
    let golden = Golden::open("golden_f64.safetensors");
    let weights = Golden::open("tiny-llama/model.safetensors");
    let ids = Golden::open("inputs.safetensors").integers("a.input_ids");
    // The last of the 16 tokens of a sequence has nothing to predict.
    let targets: Vec<u32> = (0..ids.len()).map(|t| if t % 16 == 15 { IGNORE } else { ids[t + 1] as u32 }).collect();
    let hidden = golden.tensor("a.final_norm").reshape(&[32, 64]).unwrap();
    let head = weights.tensor("lm_head.weight");
    let (mut loss, mut dhead) = (poisoned(&[1]), tensor(&vec![0.0; head.len()], head.shape()));
    let dhead_out = Some(&mut dhead);
    cross_entropy::forward_backward(&hidden, &head, &labels(&targets), &mut loss, None, dhead_out).unwrap();
    assert_close("loss", &loss.to_f32().unwrap(), golden.get("a.loss"), 1e-6);
    let expected = Golden::open("grads_a.safetensors");
    assert_close("dhead", dhead.as_slice::<f32>().unwrap(), expected.get("lm_head.weight"), 2e-6);
}

#[test]
fn chunks_of_tokens_make_no_difference() {
    // 300 tokens are three chunks; each alone must give its share of the whole.
    let (tokens, h, vocab) = (300, 8, 50);
    let mut rng = rng(3);
    let (x, w) = (normal_bf16(&mut rng, tokens * h), normal_bf16(&mut rng, vocab * h));
    let targets: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..vocab as u32)).collect();
    let head = tensor(&w, &[vocab, h]);
    let (loss, dx, dw) = run(&tensor(&x, &[tokens, h]), &head, &targets);
    assert_close("loss", &loss, &[reference(&widen(&x), &widen(&w), h, &targets)], 1e-6);
    let (mut one_by_one, mut dhead) = (Vec::new(), vec![0.0f64; vocab * h]);
    for (x, &label) in x.chunks(h).zip(&targets) {
        let (_, dx, dw) = run(&tensor(x, &[1, h]), &head, &[label]);
        one_by_one.extend(dx.to_f32().unwrap().iter().map(|&d| d as f64 / tokens as f64));
        dhead.iter_mut().zip(dw).for_each(|(sum, d)| *sum += d as f64 / tokens as f64);
    }
    assert_close("dhidden", dx.as_slice::<f32>().unwrap(), &one_by_one, 1e-6);
    assert_close("dhead", &dw, &dhead, 1e-5);

    // bf16 operands hold the same values; the gradients of logits and of `hidden` are rounded, once each.
    let narrow = |data: &[f32], shape: &[usize]| tensor_as(DType::Bf16, data, shape);
    let (narrow_loss, narrow_dx, narrow_dw) = run(&narrow(&x, &[tokens, h]), &narrow(&w, &[vocab, h]), &targets);
    assert_eq!(narrow_loss, loss);
    assert_bf16("dhidden", &narrow_dx, &one_by_one);
    assert_close("dhead", &narrow_dw, &dhead, 1.0 / 256.0);
    assert_same_for_any_threads("cross_entropy", || {
        let (loss, dx, dw) = run(&tensor(&x, &[tokens, h]), &head, &targets);
        [loss, dx.to_f32().unwrap(), dw].concat()
    });
}

#[test]
fn large_logits_stay_finite() {
    let head = tensor(&[1e4, -1e4], &[2, 1]);
    let (loss, dx, _) = run(&tensor(&[1.0, 1.0], &[2, 1]), &head, &[0, 1]);
    assert_eq!(loss, [1e4]);
    assert_eq!(dx.to_f32().unwrap(), [0.0, 1e4]);
}

#[test]
fn nothing_counted_is_zero() {
    let (loss, dx, dw) = run(&tensor(&[1.0, 2.0], &[2, 1]), &tensor(&[1.0, 3.0], &[2, 1]), &[IGNORE; 2]);
    assert_eq!((loss, dx.to_f32().unwrap(), dw), (vec![0.0], vec![0.0; 2], vec![0.0; 2]));
}

#[test]
fn a_label_beyond_the_vocabulary_is_named() {
    let (x, w) = (tensor(&[1.0, 2.0], &[2, 1]), tensor(&[1.0, 3.0], &[2, 1]));
    let error = cross_entropy::forward_backward(&x, &w, &labels(&[1, 2]), &mut poisoned(&[1]), None, None);
    let expected = "cross_entropy: label 2 of token 1 is beyond the vocabulary of 2";
    assert_eq!(error.unwrap_err().to_string(), expected);
}
