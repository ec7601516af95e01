use crate::device::{DType, DeviceError};
use crate::formats::output::OutputError;
use std::io;
use std::path::PathBuf;

/// Why weights cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder holds no safetensors file.
    #[error("{}: no *.safetensors file; {remedy}", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What was found instead, and what to do.
        remedy: String,
    },
    /// The header of a file, or the index of a folder, makes no sense.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file is shorter (or longer) than its header says.
    #[error("{}: {found} bytes where its header asks for {expected}; download or copy it again", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes by the header.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The index names a file that is not there.
    #[error("{}: names {shard}, which is not in the folder; download or copy it again", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file that is missing.
        shard: String,
    },
    /// A file lies outside of the checkpoint's folder.
    #[error("{}: {what} leads out of the checkpoint's folder; put the file itself there", path.display())]
    Outside {
        /// The index, or the link.
        path: PathBuf,
        /// The name in the index, or the target of the link.
        what: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("{}: {tensor} is in {} too; remove the file that does not belong", second.display(), first.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The file that came first.
        first: PathBuf,
        /// The file that came second.
        second: PathBuf,
    },
    /// No file holds the tensor.
    #[error("{}: no tensor {tensor} (there are {count}, such as {example})", path.display())]
    NoTensor {
        /// The folder or file.
        path: PathBuf,
        /// The tensor asked for.
        tensor: String,
        /// Tensors there are.
        count: usize,
        /// The name of one of them.
        example: String,
    },
    /// A tensor has another shape than expected.
    #[error("{}: {tensor} has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor has another element type than can be read.
    #[error("{}: {tensor} is {found}, expected {expected}", path.display())]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types that can be read.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// A quantised weight cannot be read.
    #[error("{}: {tensor}: {message}", path.display())]
    Quantised {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why.
        message: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: {tensor} at {index:?} is {value} as {dtype}; the weights are damaged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where: one index a dimension.
        index: Vec<usize>,
        /// The value, after conversion to `dtype`.
        value: f32,
        /// The type asked for.
        dtype: DType,
    },
    /// A type that weights are not converted to.
    #[error("weights are read as f32 or bf16, not {0}")]
    Target(DType),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The bytes given for a tensor do not fit its shape.
    #[error("{}: {tensor} was given {found} bytes, expected {expected}", path.display())]
    Given {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes by shape and type.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
