//! What the states of a model are like, layer by layer: the attention sink, and how much each block changes.

use crate::device::{DType, Tensor};
use crate::llama::Layer;
use crate::llama::encode::Encoder;
use crate::llama::model::Model;
use crate::ops::Result;
use crate::ops::pooling::{self, Pooling};
use nalgebra::DMatrix;

/// The states of some texts at a layer.
#[derive(Clone, Debug)]
pub struct States {
    /// Where they were read.
    pub layer: Layer,
    /// Mean Euclidean norm of each text's first token.
    pub sink_norm: f64,
    /// The same of all other tokens; 0 where there are none.
    pub other_norm: f64,
    /// The last token of each text, `[texts, hidden]`.
    pub last: DMatrix<f64>,
}

/// The states of texts at each of `layers`, in one pass over the model.
pub fn states(model: &Model, texts: &[&[u32]], layers: &[Layer]) -> Result<Vec<States>> {
    let hidden = model.config.hidden_size;
    let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
    let mut rows: Vec<Vec<f32>> = layers.iter().map(|_| vec![]).collect();
    let mut norms = vec![[(0.0, 0usize); 2]; layers.len()];
    Encoder::new(model, None, longest)?.run(texts, layers, |batch| {
        let Some(place) = layers.iter().position(|layer| *layer == batch.layer) else { return Ok(()) };
        let mut last = Tensor::zeros(&model.device, DType::F32, &[batch.sequences.count(), hidden])?;
        pooling::forward(batch.states, batch.sequences, Pooling::Last, &mut last)?;
        rows[place].extend(last.to_vec::<f32>()?);
        let states = batch.states.to_f32()?;
        for tokens in batch.sequences.ranges() {
            for token in tokens.clone() {
                let row = &states[token * hidden..(token + 1) * hidden];
                let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let (sum, n) = &mut norms[place][usize::from(token > tokens.start)];
                (*sum, *n) = (*sum + norm, *n + 1);
            }
        }
        Ok(())
    })?;
    let mean = |(sum, n): (f64, usize)| sum / n.max(1) as f64;
    let all = layers.iter().zip(rows).zip(norms).map(|((&layer, rows), [sink, others])| States {
        layer,
        sink_norm: mean(sink),
        other_norm: mean(others),
        last: DMatrix::from_row_slice(texts.len(), hidden, &rows).cast(),
    });
    Ok(all.collect())
}

/// Linear CKA of two sets of rows that belong together (Kornblith et al. 2019): with centred columns,
/// `|X'Y|^2 / (|X'X| |Y'Y|)` in Frobenius norms; 1 where one is the other turned and scaled. 0 where a set has no spread.
///
/// Computed from the rows' products, `[n, n]`, which is the same and cheaper where rows are wide.
pub fn linear_cka(x: &DMatrix<f64>, y: &DMatrix<f64>) -> f64 {
    let products = |m: &DMatrix<f64>| {
        let mean = m.row_mean();
        let mut centred = m.clone();
        centred.row_iter_mut().for_each(|mut row| row -= &mean);
        &centred * centred.transpose()
    };
    let (k, l) = (products(x), products(y));
    let norm = k.norm() * l.norm();
    if norm > 0.0 { k.dot(&l) / norm } else { 0.0 }
}

/// How much each block changes its input: `1 - CKA` of the states before and behind it (arXiv 2602.05988). `states` are of
/// hidden(0), hidden(1), ... and of `final` as the last block's output, as that paper's code has it.
pub fn importance(states: &[States]) -> Vec<f64> {
    states.windows(2).map(|pair| 1.0 - linear_cka(&pair[0].last, &pair[1].last)).collect()
}

/// The `n` blocks that change most, ascending.
pub fn most_important(importance: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
    order.truncate(n);
    order.sort_unstable();
    order
}
