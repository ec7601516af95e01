//! The loss of few pairs from the states of their tokens, and the gradient of those states: [`pooling`], [`cosine`],
//! [`pairs`] and [`infonce`] or [`triplet`], and back, in two launches where each op by itself takes eight.
//!
//! # Cost and error
//!
//! - Cost: reads the kept tokens and writes the gradient of all, `2 * b * tokens * hidden` bytes, and moves vectors in between;
//!   time is that of two launches.
//! - Error: loss 1e-6, gradients 1e-5; dot products are summed in f64. A GPU within 1e-6 of the CPU.

use super::check::{Check, F32, FLOAT, U8};
pub use super::in_batch::Direction;
use super::params::{KIUNGO_CONTRAST_COLUMNS, KIUNGO_CONTRAST_PAIRS, KIUNGO_CONTRAST_SUMS};
use super::pooling::{self, Pooling};
use super::sequences::Sequences;
use super::{cosine, infonce, pairs, triplet};
use crate::device::{DType, Device, Tensor};

/// The most pairs that a launch takes.
pub const MOST_PAIRS: usize = KIUNGO_CONTRAST_PAIRS as usize;
/// With more tokens than these a strip of columns is too much for a block.
const MOST_TOKENS: usize = 512;
/// Columns of a strip.
const COLUMNS: usize = KIUNGO_CONTRAST_COLUMNS as usize;

/// Which loss, over which cosines.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// [`infonce::forward`].
    Infonce {
        /// Above 0.
        temperature: f32,
    },
    /// [`triplet::hardest`].
    Triplet {
        /// 0 or more.
        margin: f32,
    },
}

/// What is compared, and how.
#[derive(Clone, Copy, Debug)]
pub struct Contrast<'a> {
    /// The sources, then as many targets.
    pub sequences: &'a Sequences,
    /// Which tokens count.
    pub pooling: Pooling,
    /// The loss.
    pub loss: Loss,
    /// Who looks for a partner.
    pub direction: Direction,
    /// `[n, n]`, u8, where one is given: what is no negative.
    pub excluded: Option<&'a Tensor>,
}

/// Whether these kernels take so many pairs of so many tokens: on a GPU only, few of both.
pub fn fits(device: &Device, pairs: usize, tokens: usize, hidden: usize) -> bool {
    let few = (1..=MOST_PAIRS).contains(&pairs) && tokens <= MOST_TOKENS;
    !device.is_cpu() && few && hidden > 0 && hidden.is_multiple_of(8)
}

/// Bytes of the [workspace](crate::device::Gpu::reserve) that vectors of `hidden` values need.
pub fn workspace_bytes(hidden: usize) -> usize {
    hidden.div_ceil(COLUMNS) * KIUNGO_CONTRAST_SUMS as usize * size_of::<f64>()
}

/// The loss of n pairs, and its gradient with respect to each token's state and each text's vector.
///
/// On a GPU what [`fits`] says. It needs [`workspace_bytes`].
///
/// - `h`: `[tokens, hidden]`, f32 or bf16, tokens as the sequences pack them
/// - `pooled`, `dpooled`: `[2 n, hidden]`, f32, out: the vectors, and their gradient
/// - `loss`: `[1]`, f32, out
/// - `dh`: like `h`, out, every row; that of a token of no sequence is zero
pub fn forward_backward(
    h: &Tensor,
    contrast: &Contrast,
    pooled: &mut Tensor,
    dpooled: &mut Tensor,
    loss: &mut Tensor,
    dh: &mut Tensor,
) -> super::Result {
    let check = Check::new("contrast", h);
    let (tokens, hidden) = check.matrix("h", h)?;
    let Contrast { sequences, excluded, .. } = *contrast;
    let texts = sequences.count();
    let n = texts / 2;
    check.value(n > 0 && texts == 2 * n, || format!("{texts} sequences are no sources and as many targets"))?;
    check.tensor("h", h, &[sequences.tokens(), hidden], FLOAT)?;
    check.like("dh", dh, h)?;
    check.tensor("pooled", pooled, &[texts, hidden], F32)?;
    check.tensor("dpooled", dpooled, &[texts, hidden], F32)?;
    check.tensor("loss", loss, &[1], F32)?;
    if let Some(excluded) = excluded {
        check.tensor("excluded", excluded, &[n, n], U8)?;
    }
    match contrast.loss {
        Loss::Infonce { temperature } => infonce::check_temperature(&check, temperature)?,
        Loss::Triplet { margin } => triplet::check_margin(&check, margin)?,
    }
    match check.device() {
        Device::Cpu => cpu::forward_backward(h, contrast, pooled, dpooled, loss, dh),
        Device::Cuda(gpu) => {
            let few = fits(&h.device(), n, tokens, hidden);
            check.value(few, || format!("{n} pairs of {tokens} tokens of {hidden} values are not what this takes"))?;
            let params = cuda::params(gpu.workspace(workspace_bytes(hidden))?, h, contrast, pooled, dpooled, loss, dh)?;
            gpu.launch(&cuda::forward(h.dtype(), params))?;
            Ok(gpu.launch(&cuda::backward(h.dtype(), params))?)
        }
    }
}

/// The reference: the ops that it stands for, one after another.
pub mod cpu {
    use super::*;

    /// See [`super::forward_backward`].
    pub fn forward_backward(
        h: &Tensor,
        contrast: &Contrast,
        pooled: &mut Tensor,
        dpooled: &mut Tensor,
        loss: &mut Tensor,
        dh: &mut Tensor,
    ) -> crate::ops::Result {
        let Contrast { sequences, pooling, loss: which, direction, excluded } = *contrast;
        let (texts, hidden) = (pooled.rows(), pooled.columns());
        let zeros = |shape: &[usize]| Tensor::zeros(&Device::Cpu, DType::F32, shape);
        let (mut unit, mut dunit, mut norm) = (zeros(&[texts, hidden])?, zeros(&[texts, hidden])?, zeros(&[texts])?);
        let (mut similarity, mut gradient) = (zeros(&[texts / 2, texts / 2])?, zeros(&[texts / 2, texts / 2])?);
        pooling::forward(h, sequences, pooling, pooled)?;
        cosine::normalize(pooled, &mut unit, &mut norm)?;
        pairs::forward(&unit, &mut similarity)?;
        match which {
            Loss::Infonce { temperature } => {
                infonce::forward(&similarity, excluded, temperature, direction, loss, &mut gradient)?
            }
            Loss::Triplet { margin } => {
                triplet::hardest(&similarity, excluded, direction, margin, loss, &mut gradient)?
            }
        }
        pairs::backward(&gradient, &unit, &mut dunit)?;
        cosine::normalize_backward(&dunit, &unit, &norm, dpooled)?;
        pooling::backward(dpooled, sequences, pooling, dh)?;
        let end = sequences.host_offsets().last().map_or(0, |&end| end as usize);
        Ok(dh.zero_rows(end..sequences.tokens())?)
    }
}

mod cuda {
    use super::{COLUMNS, Contrast, Loss, MOST_PAIRS};
    use crate::device::{DType, Launch, Tensor};
    use crate::ops::Result;
    use crate::ops::cosine::MIN_NORM;
    use crate::ops::float::kernel_for;
    use crate::ops::params::{ContrastParams, InBatchParams};

    /// A thread has eight columns of a text.
    const THREADS: usize = 2 * MOST_PAIRS * COLUMNS / 8;

    pub fn forward(dtype: DType, params: ContrastParams) -> Launch {
        launch(kernel_for!(dtype, "contrast_forward"), params)
    }

    pub fn backward(dtype: DType, params: ContrastParams) -> Launch {
        launch(kernel_for!(dtype, "contrast_backward"), params)
    }

    fn launch(kernel: &'static str, params: ContrastParams) -> Launch {
        let strips = params.hidden.div_ceil(COLUMNS as u32);
        Launch::new("contrast", kernel, [strips, 1, 1], THREADS as u32, params)
    }

    pub fn params(
        sums: u64,
        h: &Tensor,
        contrast: &Contrast,
        pooled: &Tensor,
        dpooled: &Tensor,
        loss: &Tensor,
        dh: &Tensor,
    ) -> Result<ContrastParams> {
        let Contrast { sequences, pooling, loss: which, direction, excluded } = *contrast;
        let (triplet, temperature, margin) = match which {
            Loss::Infonce { temperature } => (0, temperature, 0.0),
            Loss::Triplet { margin } => (1, 0.0, margin),
        };
        Ok(ContrastParams {
            h: h.address()?,
            dh: dh.address()?,
            offsets: sequences.offsets().address()?,
            pooled: pooled.address()?,
            dpooled: dpooled.address()?,
            sums,
            tokens: h.rows() as u32,
            hidden: h.columns() as u32,
            pooling: pooling.number(),
            triplet,
            min_norm: MIN_NORM,
            unused: 0,
            loss: InBatchParams {
                excluded: excluded.map_or(Ok(0), |excluded| excluded.address())?,
                loss: loss.address()?,
                n: (sequences.count() / 2) as u32,
                sides: direction.sides().len() as u32,
                temperature,
                margin,
                ..Default::default()
            },
        })
    }
}
