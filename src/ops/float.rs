//! Activations come as f32 or bf16: one generic reference serves both, rounding where it stores.

use crate::device::Element;
use half::bf16;

/// An element type that holds real numbers.
pub trait Float: Element {
    /// Widens, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Float for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

/// Runs `$body` with `$T` as the Rust type of a float dtype. Contracts have refused all other types before.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::device::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::device::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            other => unreachable!("not a float: {other}"),
        }
    };
}
pub(crate) use with_float;

/// The kernel of a family for an element type: `kernel_for!(dtype, "rmsnorm_forward")` is
/// `rmsnorm_forward_f32` or `rmsnorm_forward_bf16`.
macro_rules! kernel_for {
    ($dtype:expr, $family:literal) => {
        match $dtype {
            $crate::device::DType::Bf16 => concat!($family, "_bf16"),
            _ => concat!($family, "_f32"),
        }
    };
}
pub(crate) use kernel_for;
