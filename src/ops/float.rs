//! Activations come as f32 or bf16: one generic reference serves both, rounding where it stores.

use crate::device::Element;
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

/// An element type that holds real numbers.
pub trait Float: Element {
    /// Widens, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// The values as f32: the slice itself, or a copy.
    fn widen(x: &[Self]) -> Cow<'_, [f32]>;
    /// The slice itself if it is f32.
    fn as_f32_mut(x: &mut [Self]) -> Option<&mut [f32]>;
}

/// Elements a task of conversion.
const CHUNK: usize = 8192;

/// `to = values`, or `to += values` rounded once.
pub(crate) fn store<T: Float>(values: &[f32], to: &mut [T], add: bool) {
    to.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(to, values)| {
        for (to, value) in to.iter_mut().zip(values) {
            *to = T::from_f32(if add { to.to_f32() + value } else { *value });
        }
    });
}

impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn widen(x: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(x)
    }
    fn as_f32_mut(x: &mut [f32]) -> Option<&mut [f32]> {
        Some(x)
    }
}

impl Float for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn widen(x: &[bf16]) -> Cow<'_, [f32]> {
        let mut wide = vec![0.0; x.len()];
        wide.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(wide, x)| {
            for (wide, x) in wide.iter_mut().zip(x) {
                *wide = x.to_f32();
            }
        });
        Cow::Owned(wide)
    }
    fn as_f32_mut(_: &mut [bf16]) -> Option<&mut [f32]> {
        None
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
