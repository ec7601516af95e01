//! Adapters under the triplet loss with given negatives, against float64 and PEFT.

use super::pass::{Pass, lengths, open, packed, texts, zeros};
use crate::support::Golden;
use crate::support::assert_close;
use kiungo::llama::PerProjection;
use kiungo::llama::adapters::{Adapters, BlockAdapters, Lora};
use kiungo::llama::backward::BlockGradients;
use kiungo::llama::config::Projection;
use kiungo::llama::forward::Context;
use kiungo::llama::model::Base;
use kiungo::ops::pooling::{self, Pooling};
use kiungo::ops::{cosine, triplet};
use std::collections::BTreeMap;

const BOUND: f64 = 1e-5;
const RANK: usize = 4;
const MARGIN: f32 = 0.5;

fn adapters(golden: &Golden, case: &str, blocks: &[usize], suffix: &str) -> Adapters {
    let read = |name: String| golden.tensor(&name);
    let block = |block: usize| -> BlockAdapters {
        PerProjection::try_from_fn(|p| {
            let path = format!("{case}.model.layers.{block}.{}", p.path());
            let lora =
                || Lora { a: read(format!("{path}.lora_A.{suffix}")), b: read(format!("{path}.lora_B.{suffix}")) };
            Ok::<_, ()>(matches!(p, Projection::Q | Projection::V).then(lora))
        })
        .unwrap()
    };
    Adapters { rank: RANK, scale: 2.0, blocks: blocks.iter().map(|&b| (b, block(b))).collect::<BTreeMap<_, _>>() }
}

fn check(case: &str, adapted: &[usize], learning: &[usize], target: usize) {
    let golden = Golden::open("lora_triplet.safetensors");
    let mut model = open("tiny-llama", Base::F32);
    model.blocks.truncate(target);
    let lengths = lengths(&golden, "attention_mask");
    let texts = texts(&golden, "input_ids", &lengths);
    let adapters_ = adapters(&golden, case, adapted, "weight");

    let pass = Pass::forward(&model, Some(&adapters_), &texts);
    let top = &pass.states[target];
    let expected = packed(&golden, &format!("{case}.hidden"), &lengths);
    assert_close("hidden", top.as_slice::<f32>().unwrap(), &expected, BOUND);

    // Pool, normalise, loss.
    let (n, h) = (12, model.config.hidden_size);
    let (mut pooled, mut unit, mut norm) = (zeros(&[n, h]), zeros(&[n, h]), zeros(&[n]));
    pooling::forward(top, &pass.sequences, Pooling::Mean, &mut pooled).unwrap();
    assert_close("pooled", pooled.as_slice::<f32>().unwrap(), golden.get(&format!("{case}.pooled")), BOUND);
    cosine::normalize(&pooled, &mut unit, &mut norm).unwrap();
    let part = |i: usize| {
        let mut part = zeros(&[4, h]);
        part.copy_rows(0, &unit, 4 * i, 4).unwrap();
        part
    };
    let (a, p, g) = (part(0), part(1), part(2));
    let (mut loss, mut da, mut dp, mut dg) = (zeros(&[1]), zeros(&[4, h]), zeros(&[4, h]), zeros(&[4, h]));
    triplet::given(&a, &p, &g, MARGIN, &mut loss, &mut da, &mut dp, &mut dg).unwrap();
    assert_close("loss", loss.as_slice::<f32>().unwrap(), golden.get(&format!("{case}.loss")), BOUND);

    // And back.
    let (mut dunit, mut dpooled, mut gradient) = (zeros(&[n, h]), zeros(&[n, h]), zeros(top.shape()));
    for (i, d) in [da, dp, dg].iter().enumerate() {
        dunit.copy_rows(4 * i, d, 0, 4).unwrap();
    }
    cosine::normalize_backward(&dunit, &unit, &norm, &mut dpooled).unwrap();
    pooling::backward(&dpooled, &pass.sequences, Pooling::Mean, &mut gradient).unwrap();
    let expected = adapters(&golden, case, learning, "grad");
    let mut found = adapters(&golden, case, learning, "grad");
    for lora in found.blocks.values_mut().flat_map(|b| b.iter_mut()).filter_map(|(_, l)| l.as_mut()) {
        lora.a.fill_zero().unwrap();
        lora.b.fill_zero().unwrap();
    }
    let context = Context { config: &model.config, rope: &model.rope, sequences: &pass.sequences };
    let mut scratch = pass.scratch(&model, RANK);
    let lowest = learning[0];
    for block in (lowest..target).rev() {
        let gradients = found.blocks.get_mut(&block).map_or(BlockGradients::Frozen, BlockGradients::Adapters);
        let adapted = adapters_.of_block(block, None);
        let (input, kept) = (&pass.states[block], &pass.kept[block]);
        let below = block > lowest;
        model.blocks[block]
            .backward(context, adapted, input, kept, &mut gradient, &mut scratch, gradients, below)
            .unwrap();
    }
    for (block, projections) in &expected.blocks {
        for (p, lora) in projections.iter() {
            let (Some(expected), Some(found)) = (lora, &found.blocks[block][p]) else { continue };
            for (name, e, f) in [("A", &expected.a, &found.a), ("B", &expected.b, &found.b)] {
                let what = format!("block {block} {p} {name}");
                assert_close(&what, f.as_slice::<f32>().unwrap(), e.as_slice::<f32>().unwrap(), BOUND);
            }
        }
    }
}

#[test]
fn adapters_in_block_2_with_the_loss_at_hidden_3() {
    check("layer2_hs3", &[2], &[2], 3);
}

#[test]
fn adapters_everywhere_with_the_loss_at_hidden_2() {
    check("all_hs2", &[0, 1, 2, 3], &[0, 1], 2);
}
