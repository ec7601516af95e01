//! The operations a Llama step is made of, one file an op.
//!
//! Each file holds the op's contract (shapes, dtypes, errors), its CPU reference (`mod cpu`, plain slices), and
//! its CUDA launch (`mod cuda`, which turns shapes and addresses into [`Launch`](crate::device::Launch)es).
//! The public functions check the contract and then take the path of the device that the tensors live on.
//!
//! Conventions: tensors are row-major; `m` or `tokens` is the number of packed tokens; activations are f32 or
//! bf16; sums, norms, softmax, losses and gradients of parameters are f32; a result is rounded once, at its end.
//! Outputs are overwritten unless a function says that it adds.
//! No op keeps a tensor, allocates device memory, or waits for the device; a GPU's
//! [workspace](crate::device::Gpu::reserve) serves those that need scratch, and they say how much.
//!
//! "Cost and error" on the pages counts FLOPs, and the bytes that must move with `b` bytes an activation (4 or 2). An error is
//! `|found - exact| / |exact|` over a whole tensor, `exact` in float64, and the figure is what the tests assert of the CPU in f32;
//! a bf16 result may have twice the error of the exact one rounded once, unless a page says otherwise. "A GPU
//! within x of the CPU" is asserted of f32; in bf16 a kernel may have twice the error of the CPU's bf16.

mod check;
#[doc(hidden)]
pub mod exp;
mod float;
mod in_batch;
mod launch;
pub mod params;

pub use check::OpError;
pub use float::Float;

pub mod adamw;
pub mod attention;
pub mod clip;
pub mod contrast;
pub mod convert;
pub mod cosine;
pub mod cross_entropy;
pub mod embedding;
pub mod gemm;
pub mod infonce;
pub mod linear;
pub mod lora;
pub mod nf4;
pub mod normal;
pub mod pairs;
pub mod philox;
pub mod pooling;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod sequences;
pub mod similarity;
pub mod step;
pub mod swiglu;
pub mod triplet;

/// What every op returns.
pub type Result<T = ()> = std::result::Result<T, OpError>;
