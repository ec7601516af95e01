//! Tiny models against float64: hidden states, logits, loss, every gradient, AdamW steps.

use super::pass::{Pass, lengths, linear_name, open, packed, texts, zeros};
use crate::support::Golden;
use crate::support::assert_close;
use kiungo::device::{Device, Tensor};
use kiungo::llama::PerProjection;
use kiungo::llama::backward::{BlockGradients, WeightGradients};
use kiungo::llama::forward::Context;
use kiungo::llama::model::{Base, Model, names};
use kiungo::ops::adamw::{self, AdamW};
use kiungo::ops::cross_entropy::{self, IGNORE};
use kiungo::ops::gemm::{Layout, gemm};
use kiungo::ops::linear::Weight;
use kiungo::ops::{embedding, rmsnorm};
use std::collections::BTreeMap;

const BOUND: f64 = 1e-5;

/// Labels of next-token prediction: the next id, none at the end of a sequence.
fn labels(texts: &[Vec<u32>]) -> Tensor {
    let shift = |t: &Vec<u32>| t[1..].iter().copied().chain([IGNORE]).collect::<Vec<_>>();
    let labels: Vec<u32> = texts.iter().flat_map(shift).collect();
    let n = labels.len();
    Tensor::from_vec(&Device::Cpu, labels, &[n]).unwrap()
}

/// The same from a padded golden tensor, in which -100 is not counted.
fn golden_labels(golden: &Golden, case: &str, lengths: &[usize]) -> Tensor {
    let name = format!("{case}.labels");
    let all = golden.integers(&name);
    let rows = all.chunks(golden.shape(&name)[1]).zip(lengths);
    let shift = |(row, &n): (&[i64], &usize)| row[1..n].iter().copied().chain([-100]).collect::<Vec<_>>();
    let labels: Vec<u32> = rows.flat_map(shift).map(|l| u32::try_from(l).unwrap_or(IGNORE)).collect();
    let n = labels.len();
    Tensor::from_vec(&Device::Cpu, labels, &[n]).unwrap()
}

fn check_states(model: &Model, golden: &Golden, case: &str, texts: &[Vec<u32>], lengths: &[usize]) -> Pass {
    let pass = Pass::forward(model, None, texts);
    for (l, state) in pass.states.iter().enumerate() {
        let name = format!("{case}.hidden.{l}");
        assert_close(&name, state.as_slice::<f32>().unwrap(), &packed(golden, &name, lengths), BOUND);
    }
    let name = format!("{case}.final_norm");
    assert_close(&name, pass.normed.as_slice::<f32>().unwrap(), &packed(golden, &name, lengths), BOUND);
    pass
}

fn logits(model: &Model, pass: &Pass) -> Tensor {
    let mut logits = zeros(&[pass.tokens(), model.config.vocab_size]);
    gemm(Layout::Nt, &pass.normed, model.head().unwrap(), &mut logits, false).unwrap();
    logits
}

/// Loss and all gradients by checkpoint name.
fn gradients(model: &mut Model, pass: &Pass, labels: &Tensor) -> (f32, BTreeMap<String, Tensor>) {
    let shape = |t: &Tensor| zeros(t.shape());
    let (mut loss, mut dnormed, mut dhead) = (zeros(&[1]), shape(&pass.normed), shape(model.head().unwrap()));
    cross_entropy::forward_backward(
        &pass.normed,
        model.head().unwrap(),
        labels,
        &mut loss,
        Some(&mut dnormed),
        Some(&mut dhead),
    )
    .unwrap();
    let mut all = BTreeMap::new();
    let mut gradient = shape(&dnormed);
    let (norm, mut dnorm) = (model.final_norm.as_ref().unwrap(), zeros(&[model.config.hidden_size]));
    let top = pass.states.last().unwrap();
    rmsnorm::backward(&dnormed, top, norm, &pass.inv_rms, &mut gradient, Some(&mut dnorm)).unwrap();
    all.insert(names::FINAL_NORM.to_string(), dnorm);
    let mut scratch = pass.scratch(model, 0);
    let context = Context { config: &model.config, rope: &model.rope, sequences: &pass.sequences };
    for (i, block) in model.blocks.iter_mut().enumerate().rev() {
        let mut g = WeightGradients {
            input_norm: shape(&block.input_norm),
            post_norm: shape(&block.post_norm),
            linear: PerProjection::try_from_fn(|p| match &block.linear[p] {
                Weight::Dense(w) => Ok::<_, ()>(shape(w)),
                Weight::Nf4(_) => Err(()),
            })
            .unwrap(),
        };
        let gradients = BlockGradients::Weights(&mut g);
        block
            .backward(context, None, &pass.states[i], &pass.kept[i], &mut gradient, &mut scratch, gradients, true)
            .unwrap();
        all.insert(names::input_norm(i), g.input_norm);
        all.insert(names::post_norm(i), g.post_norm);
        for (p, g) in g.linear.iter() {
            all.insert(linear_name(i, p), Tensor::from_vec(&Device::Cpu, g.to_f32().unwrap(), g.shape()).unwrap());
        }
    }
    let mut dembedding = if model.config.tie_word_embeddings {
        dhead
    } else {
        all.insert(names::HEAD.to_string(), dhead);
        shape(&model.embedding)
    };
    embedding::backward(&gradient, &pass.ids, &mut dembedding).unwrap();
    all.insert(names::EMBEDDING.to_string(), dembedding);
    (loss.to_vec::<f32>().unwrap()[0], all)
}

#[test]
fn states_logits_and_loss_match_float64() {
    let mut model = open("tiny-llama", Base::F32);
    let (golden, inputs) = (Golden::open("golden_f64.safetensors"), Golden::open("inputs.safetensors"));
    for (case, lengths) in [("a", vec![16, 16]), ("b", vec![8, 5, 3])] {
        let texts = texts(&inputs, &format!("{case}.input_ids"), &lengths);
        let pass = check_states(&model, &golden, case, &texts, &lengths);
        let logits = logits(&model, &pass);
        let name = format!("{case}.logits");
        assert_close(&name, logits.as_slice::<f32>().unwrap(), &packed(&golden, &name, &lengths), BOUND);
        let (loss, _) = gradients(&mut model, &pass, &labels(&texts));
        assert_close("loss", &[loss], golden.get(&format!("{case}.loss")), BOUND);
    }
}

#[test]
fn every_gradient_matches_float64() {
    let mut model = open("tiny-llama", Base::F32);
    let (golden, inputs) = (Golden::open("grads_a.safetensors"), Golden::open("inputs.safetensors"));
    let texts = texts(&inputs, "a.input_ids", &[16, 16]);
    let pass = Pass::forward(&model, None, &texts);
    let (_, all) = gradients(&mut model, &pass, &labels(&texts));
    assert_eq!(all.len(), 39);
    for (name, gradient) in &all {
        assert_close(name, gradient.as_slice::<f32>().unwrap(), golden.get(name), BOUND);
    }
}

#[test]
fn adamw_steps_match_float64() {
    let mut model = open("tiny-llama", Base::F32);
    let (golden, inputs) = (Golden::open("adamw_a.safetensors"), Golden::open("inputs.safetensors"));
    let texts = texts(&inputs, "a.input_ids", &[16, 16]);
    let hyper = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let mut moments: BTreeMap<String, (Tensor, Tensor)> = BTreeMap::new();
    for t in 1..=3 {
        let pass = Pass::forward(&model, None, &texts);
        let (loss, all) = gradients(&mut model, &pass, &labels(&texts));
        assert_close("loss", &[loss], &golden.get("losses")[t - 1..t], 1e-4);
        for (name, gradient) in &all {
            let (m, v) =
                moments.entry(name.clone()).or_insert_with(|| (zeros(gradient.shape()), zeros(gradient.shape())));
            let weight = weight_mut(&mut model, name);
            let before = weight.to_vec::<f32>().unwrap();
            adamw::step(&hyper, t as u32, weight, gradient, m, v, None).unwrap();
            let expected = match t {
                1 if golden.names().contains(&name.as_str()) => name.clone(),
                1 => format!("{name}[:128]"),
                t => format!("step{t}.{name}"),
            };
            if golden.names().contains(&expected.as_str()) {
                let expected = golden.get(&expected);
                let after = weight.as_slice::<f32>().unwrap();
                let update = |after: f64, before: f32| after - f64::from(before);
                let found: Vec<f64> =
                    after[..expected.len()].iter().zip(&before).map(|(&a, &b)| update(a.into(), b)).collect();
                let wanted: Vec<f64> = expected.iter().zip(&before).map(|(&a, &b)| update(a, b)).collect();
                assert_close(&format!("step {t} of {name}"), &found, &wanted, if t == 1 { 1e-3 } else { 2e-3 });
            }
        }
    }
}

fn weight_mut<'a>(model: &'a mut Model, name: &str) -> &'a mut Tensor {
    if name == names::EMBEDDING {
        return &mut model.embedding;
    }
    if name == names::FINAL_NORM {
        return model.final_norm.as_mut().unwrap();
    }
    if name == names::HEAD {
        return model.head.as_mut().unwrap();
    }
    for (i, block) in model.blocks.iter_mut().enumerate() {
        if name == names::input_norm(i) {
            return &mut block.input_norm;
        }
        if name == names::post_norm(i) {
            return &mut block.post_norm;
        }
        for (p, weight) in block.linear.iter_mut() {
            if let (true, Weight::Dense(weight)) = (name == linear_name(i, p), weight) {
                return weight;
            }
        }
    }
    panic!("no weight {name}")
}

#[test]
fn a_double_quantised_base_matches_bitsandbytes() {
    let mut model = open("tiny-llama", Base::Nf4Double);
    let (golden, inputs) = (Golden::open("nf4.safetensors"), Golden::open("inputs.safetensors"));
    let texts = texts(&inputs, "a.input_ids", &[16, 16]);
    let check = |model: &Model, bound| {
        let logits = logits(model, &Pass::forward(model, None, &texts));
        assert_close("logits", logits.as_slice::<f32>().unwrap(), golden.get("model.a.logits"), bound);
    };
    // Every path computes with weights rounded to bf16; the golden ones are the exact products.
    check(&model, 1e-2);
    for block in &mut model.blocks {
        for (_, weight) in block.linear.iter_mut() {
            let Weight::Nf4(quantized) = weight else { panic!("not quantised") };
            let exact = Tensor::from_vec(&Device::Cpu, quantized.to_f32().unwrap(), &quantized.shape).unwrap();
            *weight = Weight::Dense(exact);
        }
    }
    // The golden scales are from bitsandbytes' CPU code, which rounds 5 of the 8-bit scale codes (zeros and ties) to
    // other levels than its CUDA code, whose rule is ours.
    check(&model, 5e-4);
}

#[test]
fn llama3_scaling_of_the_rotary_embedding_matches_float64() {
    let model = open("llama3-rope", Base::F32);
    let golden = Golden::open("more.safetensors");
    let ids: Vec<u32> = golden.get("llama3-rope.input_ids").iter().map(|&id| id as u32).collect();
    let pass = Pass::forward(&model, None, &[ids]);
    for (l, state) in pass.states.iter().enumerate() {
        let name = format!("llama3-rope.hidden.{l}");
        assert_close(&name, state.as_slice::<f32>().unwrap(), golden.get(&name), BOUND);
    }
}

/// Tied embeddings in two shards; heads wider than hidden / heads, in bf16.
#[test]
fn other_layouts_match_float64() {
    let golden = Golden::open("more.safetensors");
    for case in ["tied", "wide-heads"] {
        let mut model = open(case, Base::F32);
        let lengths = lengths(&golden, &format!("{case}.attention_mask"));
        let texts = texts(&golden, &format!("{case}.input_ids"), &lengths);
        let pass = Pass::forward(&model, None, &texts);
        for (l, state) in pass.states.iter().enumerate() {
            let name = format!("{case}.hidden.{l}");
            assert_close(&name, state.as_slice::<f32>().unwrap(), golden.get(&name), BOUND);
        }
        let (loss, all) = gradients(&mut model, &pass, &golden_labels(&golden, case, &lengths));
        assert_close("loss", &[loss], golden.get(&format!("{case}.loss")), BOUND);
        let prefix = format!("{case}.grad.");
        let named = golden.names().into_iter().filter_map(|n| n.strip_prefix(&prefix));
        let checked = named.map(|name| {
            let expected = golden.get(&format!("{prefix}{name}"));
            assert_close(name, all[name].as_slice::<f32>().unwrap(), expected, BOUND);
        });
        assert!(checked.count() >= 4);
    }
}
