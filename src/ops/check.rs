//! The errors of ops, and the checks that make them.

use crate::device::{DType, Device, DeviceError, Tensor};

/// An op was called against its contract, or its device failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// A tensor has another shape than the contract asks for.
    #[error("{op}: {tensor} has shape {found:?}, expected {expected}")]
    Shape {
        /// The op's name, e.g. `rmsnorm`.
        op: &'static str,
        /// The argument's name.
        tensor: &'static str,
        /// What the contract asks for.
        expected: String,
        /// What was found.
        found: Vec<usize>,
    },
    /// A tensor has another element type than the contract allows.
    #[error("{op}: {tensor} is {found}, expected {expected}")]
    DType {
        /// The op's name.
        op: &'static str,
        /// The argument's name.
        tensor: &'static str,
        /// The types allowed.
        expected: &'static str,
        /// What was found.
        found: DType,
    },
    /// A tensor lives on another device than the op's other tensors.
    #[error("{op}: {tensor} is on {found}, the other tensors on {expected}")]
    Device {
        /// The op's name.
        op: &'static str,
        /// The argument's name.
        tensor: &'static str,
        /// Where the first tensor lives.
        expected: String,
        /// Where this one lives.
        found: String,
    },
    /// A value that the contract forbids.
    #[error("{op}: {message}")]
    Value {
        /// The op's name.
        op: &'static str,
        /// What is wrong, with the value.
        message: String,
    },
    /// The op has no CUDA kernel (for these types).
    #[error("{op} has no CUDA kernel for {what}: run it on the CPU")]
    NoKernel {
        /// The op's name.
        op: &'static str,
        /// The types or sizes that were asked for.
        what: String,
    },
    /// The device failed.
    #[error(transparent)]
    Driver(#[from] DeviceError),
}

/// Checks the tensors of one call. All must be on the device of the first.
pub(crate) struct Check {
    op: &'static str,
    device: Device,
}

impl Check {
    pub(crate) fn new(op: &'static str, first: &Tensor) -> Check {
        Check { op, device: first.device() }
    }

    /// The device of the call.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Shape, one of `dtypes`, and device.
    pub(crate) fn tensor(
        &self,
        name: &'static str,
        t: &Tensor,
        shape: &[usize],
        dtypes: Allowed,
    ) -> Result<(), OpError> {
        if t.shape() != shape {
            return Err(OpError::Shape {
                op: self.op,
                tensor: name,
                expected: format!("{shape:?}"),
                found: t.shape().to_vec(),
            });
        }
        self.dtype(name, t, dtypes)
    }

    /// Shape, element type and device of another tensor.
    pub(crate) fn like(&self, name: &'static str, t: &Tensor, other: &Tensor) -> Result<(), OpError> {
        self.tensor(name, t, other.shape(), Allowed::Only(other.dtype()))
    }

    /// Element type and device alone.
    pub(crate) fn dtype(&self, name: &'static str, t: &Tensor, dtypes: Allowed) -> Result<(), OpError> {
        if !dtypes.types().contains(&t.dtype()) {
            return Err(OpError::DType { op: self.op, tensor: name, expected: dtypes.words(), found: t.dtype() });
        }
        if t.device() != self.device {
            return Err(OpError::Device {
                op: self.op,
                tensor: name,
                expected: self.device.to_string(),
                found: t.device().to_string(),
            });
        }
        Ok(())
    }

    /// Rows and columns of a two-dimensional tensor.
    pub(crate) fn matrix(&self, name: &'static str, t: &Tensor) -> Result<(usize, usize), OpError> {
        match t.shape() {
            [rows, columns] => Ok((*rows, *columns)),
            found => Err(OpError::Shape {
                op: self.op,
                tensor: name,
                expected: "two dimensions".into(),
                found: found.to_vec(),
            }),
        }
    }

    /// An error unless `ok`.
    pub(crate) fn value(&self, ok: bool, message: impl FnOnce() -> String) -> Result<(), OpError> {
        if ok { Ok(()) } else { Err(OpError::Value { op: self.op, message: message() }) }
    }

    /// The error for a type or size without a kernel.
    pub(crate) fn no_kernel<T>(&self, what: impl Into<String>) -> Result<T, OpError> {
        Err(OpError::NoKernel { op: self.op, what: what.into() })
    }
}

/// Sets of element types that contracts name.
#[derive(Clone, Copy)]
pub(crate) enum Allowed {
    /// f32 or bf16.
    Float,
    /// One type alone.
    Only(DType),
}

pub(crate) const FLOAT: Allowed = Allowed::Float;
pub(crate) const F32: Allowed = Allowed::Only(DType::F32);
pub(crate) const U32: Allowed = Allowed::Only(DType::U32);
pub(crate) const U8: Allowed = Allowed::Only(DType::U8);

impl Allowed {
    fn types(&self) -> &[DType] {
        match self {
            Allowed::Float => &[DType::F32, DType::Bf16],
            Allowed::Only(t) => std::slice::from_ref(t),
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Allowed::Float => "f32 or bf16",
            Allowed::Only(DType::F32) => "f32",
            Allowed::Only(DType::Bf16) => "bf16",
            Allowed::Only(DType::U32) => "u32",
            Allowed::Only(DType::U8) => "u8",
        }
    }
}
