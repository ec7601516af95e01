//! Launches of `nf4_linear.cu`: an NF4 weight and few tokens, without a dequantised copy.

use crate::device::{DType, Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::nf4::{Nf4Tensor, Scales};
use crate::ops::params::Nf4LinearParams;

const THREADS: u32 = 512;
/// Inputs that a stage, or a warp, takes at a time.
const DEPTH: usize = 256;
/// Inputs that share an absmax.
const BLOCK: usize = 64;
/// The table of pairs of values, and the map of the scales.
const TABLES_BYTES: usize = 256 * 32 * 4 + 256 * 4;

/// How the blocks of a kernel share the weight.
#[derive(Clone, Copy)]
enum Way {
    /// Each takes groups of 16 rows, one after the other; its 16 warps share the inputs.
    Groups,
    /// Each takes 128 rows, through a ring of so many stages in shared memory (`nf4_linear.cu` knows them too).
    Stages(usize),
}

/// A kernel for up to so many tokens.
struct Kernel {
    tokens: usize,
    way: Way,
    plain: &'static str,
    double: &'static str,
}

const KERNELS: [Kernel; 4] = [
    Kernel { tokens: 8, way: Way::Groups, plain: "nf4_linear_8", double: "nf4_linear_double_8" },
    Kernel { tokens: 16, way: Way::Groups, plain: "nf4_linear_16", double: "nf4_linear_double_16" },
    Kernel { tokens: 32, way: Way::Stages(4), plain: "nf4_linear_32", double: "nf4_linear_double_32" },
    Kernel { tokens: 64, way: Way::Stages(3), plain: "nf4_linear_64", double: "nf4_linear_double_64" },
];

impl Kernel {
    fn shared_bytes(&self, double: bool) -> usize {
        match self.way {
            // Two places for the sums of 16 warps.
            Way::Groups => TABLES_BYTES + 2 * 16 * 16 * self.tokens * 4,
            Way::Stages(stages) => {
                const ROWS: usize = 128;
                // Four absmax values a row, or their four codes and the absmax that they share.
                let scales = if double { ROWS * (4 + 4) } else { ROWS * DEPTH / BLOCK * 4 };
                TABLES_BYTES + stages * (ROWS * DEPTH / 2 + self.tokens * DEPTH * 2 + scales)
            }
        }
    }

    fn blocks(&self, multiprocessors: usize, outputs: usize) -> usize {
        match self.way {
            Way::Groups => outputs.div_ceil(16).min(multiprocessors),
            Way::Stages(_) => outputs.div_ceil(128),
        }
    }
}

/// The launch of `y = x W^T`, or None where the dequantised weight is the better way, or the only one.
pub fn forward(gpu: &Gpu, x: &Tensor, weight: &Nf4Tensor, y: &Tensor) -> Result<Option<Launch>> {
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
    let grid = [kernel.blocks(gpu.multiprocessors() as usize, outputs) as u32, 1, 1];
    let launch = Launch::new("nf4_linear", name, grid, THREADS, params).shared(kernel.shared_bytes(double) as u32);
    Ok(Some(launch))
}
