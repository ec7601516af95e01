//! Launches of `lora.cu`, in f32 on ordinary cores; [`sm80`] takes what it can.

use super::{Branch, Factors, sm80};
use crate::device::{Gpu, Launch, Tensor};
use crate::ops::Result;
use crate::ops::float::kernel_for;
use crate::ops::params::LoraParams;

const THREADS: u32 = 256;

/// A product's sizes in tiles of its kernel, and the kernel.
struct Product {
    kernel: &'static str,
    sizes: [usize; 3],
    grid: [usize; 2],
}

pub fn forward(gpu: &Gpu, x: &Tensor, factors: &Factors, s: &Tensor, y: &Tensor) -> Result {
    let (tokens, inputs, outputs) = (x.rows(), x.columns(), y.columns());
    if sm80::fits(x, [inputs, outputs]) {
        return sm80::forward(gpu, x, factors, s, y);
    }
    let rank = factors.a.rows();
    let down = kernel_for!(x.dtype(), "lora_down");
    launch(gpu, Product::thin(down, [tokens, rank, inputs]), factors, [x, factors.a, s])?;
    let up = kernel_for!(x.dtype(), "lora_up");
    launch(gpu, Product::wide(up, [tokens, outputs, rank]), factors, [s, factors.b, y])
}

pub fn backward(gpu: &Gpu, x: &Tensor, branches: &[Branch], dx: Option<&Tensor>) -> Result {
    if branches.iter().all(|branch| sm80::fits(x, [x.columns(), branch.dy.columns()])) {
        return sm80::backward(gpu, x, branches, dx);
    }
    branches.iter().try_for_each(|branch| one_backward(gpu, x, branch, dx))
}

fn one_backward(gpu: &Gpu, x: &Tensor, branch: &Branch, dx: Option<&Tensor>) -> Result {
    let Branch { dy, s, factors, ds, da, db } = branch;
    let (tokens, inputs, outputs, rank) = (x.rows(), x.columns(), dy.columns(), factors.a.rows());
    let kernel = kernel_for!(x.dtype(), "lora_ds");
    launch(gpu, Product::thin(kernel, [tokens, rank, outputs]), factors, [dy, factors.b, ds])?;
    let kernel = kernel_for!(x.dtype(), "lora_db");
    launch(gpu, Product::thin(kernel, [outputs, rank, tokens]), factors, [dy, s, db])?;
    let kernel = kernel_for!(x.dtype(), "lora_da");
    launch(gpu, Product::flat(kernel, [rank, inputs, tokens]), factors, [ds, x, da])?;
    let Some(dx) = dx else { return Ok(()) };
    let kernel = kernel_for!(x.dtype(), "lora_dx");
    launch(gpu, Product::wide(kernel, [tokens, inputs, rank]), factors, [ds, factors.a, dx])
}

impl Product {
    /// Few columns: tiles of 32 x 16.
    fn thin(kernel: &'static str, sizes @ [m, n, _]: [usize; 3]) -> Product {
        Product { kernel, sizes, grid: [m.div_ceil(32), n.div_ceil(16)] }
    }

    /// Few rows: tiles of 16 x 32, columns first.
    fn flat(kernel: &'static str, sizes @ [m, n, _]: [usize; 3]) -> Product {
        Product { kernel, sizes, grid: [n.div_ceil(32), m.div_ceil(16)] }
    }

    /// A short sum: tiles of 64 x 64.
    fn wide(kernel: &'static str, sizes @ [m, n, _]: [usize; 3]) -> Product {
        Product { kernel, sizes, grid: [m.div_ceil(64), n.div_ceil(64)] }
    }
}

fn launch(gpu: &Gpu, product: Product, factors: &Factors, [left, right, out]: [&Tensor; 3]) -> Result {
    let Product { kernel, sizes: [m, n, k], grid: [x, y] } = product;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let params = LoraParams {
        left: left.address()?,
        right: right.address()?,
        out: out.address()?,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        scale: factors.scale,
        dropout: factors.dropout_params()?,
    };
    Ok(gpu.launch(&Launch::new("lora", kernel, [x as u32, y as u32, 1], THREADS, params))?)
}
