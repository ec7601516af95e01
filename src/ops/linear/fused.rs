//! Launches of `linear.cu`: an NF4 weight and few tokens, without a dequantised copy.

use crate::device::{DType, Launch, Tensor};
use crate::ops::Result;
use crate::ops::nf4::{Nf4Tensor, Scales};
use crate::ops::params::Nf4LinearParams;

const THREADS: u32 = 512;
/// Of the weight a block, and a stage: rows, and inputs.
const ROWS: usize = 128;
const DEPTH: usize = 256;
/// Inputs that share an absmax.
const BLOCK: usize = 64;
/// The table of pairs of values, and the map of the scales.
const TABLES_BYTES: usize = 256 * 32 * 4 + 256 * 4;

/// A kernel for up to so many tokens.
struct Kernel {
    tokens: usize,
    stages: usize,
    plain: &'static str,
    double: &'static str,
}

/// `linear.cu` knows the stages too.
const KERNELS: [Kernel; 4] = [
    Kernel { tokens: 8, stages: 8, plain: "linear_nf4_8", double: "linear_nf4_double_8" },
    Kernel { tokens: 16, stages: 6, plain: "linear_nf4_16", double: "linear_nf4_double_16" },
    Kernel { tokens: 32, stages: 4, plain: "linear_nf4_32", double: "linear_nf4_double_32" },
    Kernel { tokens: 64, stages: 3, plain: "linear_nf4_64", double: "linear_nf4_double_64" },
];

impl Kernel {
    fn shared_bytes(&self, double: bool) -> usize {
        // Four absmax values a row, or their four codes and the absmax that they share.
        let scales = if double { ROWS * (4 + 4) } else { ROWS * DEPTH / BLOCK * 4 };
        TABLES_BYTES + self.stages * (ROWS * DEPTH / 2 + self.tokens * DEPTH * 2 + scales)
    }
}

/// The launch of `y = x W^T`, or None where the dequantised weight is the better way, or the only one.
pub fn forward(x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Option<Launch>> {
    let [outputs, inputs] = weight.shape;
    let double = matches!(weight.scales, Scales::Double { .. });
    let fits = inputs.is_multiple_of(if double { DEPTH } else { BLOCK });
    let kernel = KERNELS.iter().find(|k| x.rows() <= k.tokens);
    let (true, true, Some(kernel)) = (x.dtype() == DType::Bf16, fits && x.rows() > 0, kernel) else { return Ok(None) };
    let mut params = Nf4LinearParams {
        x: x.address()?,
        codes: weight.codes.address()?,
        y: y.address()?,
        m: x.rows() as u32,
        n: outputs as u32,
        k: inputs as u32,
        ..Default::default()
    };
    match &weight.scales {
        Scales::Plain { absmax } => params.absmax = absmax.address()?,
        Scales::Double { codes, nested, map, offset } => {
            params.absmax = nested.address()?;
            params.scale_codes = codes.address()?;
            params.map = map.address()?;
            params.offset = offset.address()?;
        }
    }
    let name = if double { kernel.double } else { kernel.plain };
    let grid = [outputs.div_ceil(ROWS) as u32, 1, 1];
    let launch = Launch::new("linear", name, grid, THREADS, params).shared(kernel.shared_bytes(double) as u32);
    Ok(Some(launch))
}
