use super::slices::Slice;
use super::{Device, DeviceError, Gpu};
use bytemuck::Pod;
use half::bf16;
use std::sync::Arc;

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Unsigned 32-bit, for token ids and offsets.
    U32,
    /// Bytes, for packed NF4 codes.
    U8,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::U32 => "u32",
            DType::U8 => "u8",
        })
    }
}

/// A Rust type that is a tensor's element.
pub trait Element: Pod + Send + Sync + std::fmt::Debug + 'static {
    /// Its [`DType`].
    const DTYPE: DType;
    #[doc(hidden)]
    fn vec(host: &Host) -> Option<&Vec<Self>>;
    #[doc(hidden)]
    fn vec_mut(host: &mut Host) -> Option<&mut Vec<Self>>;
    #[doc(hidden)]
    fn host(data: Vec<Self>) -> Host;
}

#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Host {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl Element for $type {
            const DTYPE: DType = DType::$variant;
            fn vec(host: &Host) -> Option<&Vec<Self>> {
                if let Host::$variant(v) = host { Some(v) } else { None }
            }
            fn vec_mut(host: &mut Host) -> Option<&mut Vec<Self>> {
                if let Host::$variant(v) = host { Some(v) } else { None }
            }
            fn host(data: Vec<Self>) -> Host {
                Host::$variant(data)
            }
        }
    };
}
element!(f32, F32);
element!(bf16, Bf16);
element!(u32, U32);
element!(u8, U8);

impl Host {
    fn zeros(dtype: DType, n: usize) -> Host {
        match dtype {
            DType::F32 => Host::F32(vec![0.0; n]),
            DType::Bf16 => Host::Bf16(vec![bf16::ZERO; n]),
            DType::U32 => Host::U32(vec![0; n]),
            DType::U8 => Host::U8(vec![0; n]),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Host::F32(v) => bytemuck::cast_slice(v),
            Host::Bf16(v) => bytemuck::cast_slice(v),
            Host::U32(v) => bytemuck::cast_slice(v),
            Host::U8(v) => v,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Host::F32(v) => bytemuck::cast_slice_mut(v),
            Host::Bf16(v) => bytemuck::cast_slice_mut(v),
            Host::U32(v) => bytemuck::cast_slice_mut(v),
            Host::U8(v) => v,
        }
    }
}

pub(super) struct Allocation {
    pub(super) gpu: Gpu,
    pub(super) address: u64,
    pub(super) owner: Owner,
}

/// Who frees a tensor's memory.
pub(super) enum Owner {
    /// The tensor, through its GPU.
    Tensor,
    /// Someone who keeps it for longer: the GPU's workspace, or a caller.
    Other,
    /// A slice that was handed over.
    Slice(Box<dyn Slice>),
    /// All tensors that share it, the last of them.
    Shared { _memory: Arc<Allocation> },
}

impl Drop for Allocation {
    fn drop(&mut self) {
        match &mut self.owner {
            Owner::Tensor => self.gpu.free(self.address),
            Owner::Other | Owner::Shared { .. } => {}
            Owner::Slice(slice) => slice.used_on(&self.gpu),
        }
    }
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x} on {:?}", self.address, self.gpu)
    }
}

#[derive(Debug)]
pub(super) enum Storage {
    Host(Host),
    Gpu(Allocation),
}

/// A dense row-major array on a device.
///
/// The first dimension may shrink and grow within what was allocated ([`Tensor::set_rows`]), so that buffers
/// made once serve batches of any smaller number of tokens.
#[derive(Debug)]
pub struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) capacity: usize,
    pub(super) storage: Storage,
}

/// How many a tensor of that shape has; an error where their bytes are more than a usize counts.
pub(super) fn elements(dtype: DType, shape: &[usize]) -> Result<usize, DeviceError> {
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n));
    bytes.map(|bytes| bytes / dtype.size()).ok_or_else(|| DeviceError::TooLarge { shape: shape.into() })
}

impl Tensor {
    /// Zeros. `shape` in elements, outermost first.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let mut tensor = Tensor::uninitialized(device, dtype, shape)?;
        if !device.is_cpu() {
            tensor.fill_zero()?;
        }
        Ok(tensor)
    }

    /// Memory for `shape`, for what is written before it is read: contents undefined on a GPU, zeros on the CPU.
    pub fn uninitialized(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let n = elements(dtype, shape)?;
        let storage = match device {
            Device::Cpu => Storage::Host(Host::zeros(dtype, n)),
            Device::Cuda(gpu) => {
                let address = gpu.allocate((n * dtype.size()).max(1))?;
                Storage::Gpu(Allocation { gpu: gpu.clone(), address, owner: Owner::Tensor })
            }
        };
        Ok(Tensor { shape: shape.to_vec(), dtype, capacity: n, storage })
    }

    /// What one op writes and reads itself, contents undefined: in the [workspace](Gpu::workspace) of a GPU, so that
    /// no memory is allocated in a step. Another op may use the same memory once this one has returned.
    pub(crate) fn scratch(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let Device::Cuda(gpu) = device else { return Tensor::zeros(device, dtype, shape) };
        let n = elements(dtype, shape)?;
        let address = gpu.workspace((n * dtype.size()).max(1))?;
        Ok(Tensor::borrowed(gpu, address, dtype, shape))
    }

    /// Zeros of these shapes in one allocation, which lives as long as any of them, and all of it as one vector: what is
    /// done with every element takes one launch. Gaps between the parts are zeros.
    pub(crate) fn parts(gpu: &Gpu, dtype: DType, shapes: &[Vec<usize>]) -> Result<(Tensor, Vec<Tensor>), DeviceError> {
        const ALIGNMENT: usize = 256;
        let (mut ends, mut end) = (vec![], 0);
        for shape in shapes {
            end += elements(dtype, shape)?.next_multiple_of(ALIGNMENT);
            ends.push(end);
        }
        let address = gpu.allocate((end * dtype.size()).max(1))?;
        let shared = Arc::new(Allocation { gpu: gpu.clone(), address, owner: Owner::Tensor });
        let part = |first: usize, shape: &[usize]| {
            let (address, owner) = (address + (first * dtype.size()) as u64, Owner::Shared { _memory: shared.clone() });
            Tensor::at(Allocation { gpu: gpu.clone(), address, owner }, dtype, shape)
        };
        let mut whole = part(0, &[end]);
        whole.fill_zero()?;
        let firsts = [0].into_iter().chain(ends);
        Ok((whole, firsts.zip(shapes).map(|(first, shape)| part(first, shape)).collect()))
    }

    /// Elements in memory that something else owns, and keeps until the launches that use it have ended: part of
    /// another tensor, or of the workspace.
    pub(crate) fn borrowed(gpu: &Gpu, address: u64, dtype: DType, shape: &[usize]) -> Tensor {
        Tensor::at(Allocation { gpu: gpu.clone(), address, owner: Owner::Other }, dtype, shape)
    }

    pub(super) fn at(allocation: Allocation, dtype: DType, shape: &[usize]) -> Tensor {
        let capacity = shape.iter().product();
        Tensor { shape: shape.to_vec(), dtype, capacity, storage: Storage::Gpu(allocation) }
    }

    /// Takes host data over (CPU), or copies it to the GPU.
    pub fn from_vec<T: Element>(device: &Device, data: Vec<T>, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let n = elements(T::DTYPE, shape)?;
        if data.len() != n {
            return Err(DeviceError::Length { what: "tensor from host data", expected: n, found: data.len() });
        }
        match device {
            Device::Cpu => Ok(Tensor {
                shape: shape.to_vec(),
                dtype: T::DTYPE,
                capacity: n,
                storage: Storage::Host(T::host(data)),
            }),
            Device::Cuda(_) => {
                let mut tensor = Tensor::uninitialized(device, T::DTYPE, shape)?;
                tensor.write(&data)?;
                Ok(tensor)
            }
        }
    }

    /// Copies host data.
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Result<Tensor, DeviceError> {
        Tensor::from_vec(device, data.to_vec(), shape)
    }

    /// f32 values rounded to `dtype` (f32 or bf16).
    pub fn from_f32(device: &Device, dtype: DType, data: Vec<f32>, shape: &[usize]) -> Result<Tensor, DeviceError> {
        match dtype {
            DType::F32 => Tensor::from_vec(device, data, shape),
            DType::Bf16 => {
                let data: Vec<bf16> = data.into_iter().map(bf16::from_f32).collect();
                Tensor::from_vec(device, data, shape)
            }
            other => Err(DeviceError::DType { expected: DType::F32, found: other }),
        }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the first dimension; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements a row: the product of all dimensions but the first.
    pub fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the elements in use.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Bytes allocated.
    pub fn allocated_bytes(&self) -> usize {
        self.capacity * self.dtype.size()
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Host(_) => Device::Cpu,
            Storage::Gpu(a) => Device::Cuda(a.gpu.clone()),
        }
    }

    /// Uses the first `rows` rows of what was allocated. Contents of rows that come into use are undefined.
    pub fn set_rows(&mut self, rows: usize) -> Result<(), DeviceError> {
        let n = rows.saturating_mul(self.columns());
        if n > self.capacity {
            return Err(DeviceError::Length { what: "set_rows beyond capacity", expected: self.capacity, found: n });
        }
        if let Some(first) = self.shape.first_mut() {
            *first = rows;
        }
        Ok(())
    }

    /// Becomes an `n` by `n` matrix within what was allocated. Contents are undefined.
    pub fn set_square(&mut self, n: usize) -> Result<(), DeviceError> {
        let found = n.saturating_mul(n);
        if found > self.capacity {
            return Err(DeviceError::Length { what: "set_square beyond capacity", expected: self.capacity, found });
        }
        self.shape = vec![n, n];
        Ok(())
    }

    /// The same elements under another shape of equal size.
    pub fn reshape(mut self, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let n = elements(self.dtype, shape)?;
        if n != self.len() {
            return Err(DeviceError::Length { what: "reshape", expected: self.len(), found: n });
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// Device address of the first element. An error for a tensor on the host.
    pub fn address(&self) -> Result<u64, DeviceError> {
        match &self.storage {
            Storage::Gpu(a) => Ok(a.address),
            Storage::Host(_) => Err(DeviceError::NoDevice("tensor is on the host".into())),
        }
    }

    /// The elements of a tensor on the host.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], DeviceError> {
        match &self.storage {
            Storage::Host(host) => match T::vec(host) {
                Some(v) => Ok(&v[..self.len()]),
                None => Err(DeviceError::DType { expected: T::DTYPE, found: self.dtype }),
            },
            Storage::Gpu(a) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
        }
    }

    /// The elements of a tensor on the host, to write.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], DeviceError> {
        let n = self.len();
        match &mut self.storage {
            Storage::Host(host) => match T::vec_mut(host) {
                Some(v) => Ok(&mut v[..n]),
                None => Err(DeviceError::DType { expected: T::DTYPE, found: self.dtype }),
            },
            Storage::Gpu(a) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
        }
    }

    /// Replaces all elements by host data.
    pub fn write<T: Element>(&mut self, data: &[T]) -> Result<(), DeviceError> {
        if data.len() != self.len() {
            return Err(DeviceError::Length { what: "write", expected: self.len(), found: data.len() });
        }
        if T::DTYPE != self.dtype {
            return Err(DeviceError::DType { expected: T::DTYPE, found: self.dtype });
        }
        match &mut self.storage {
            Storage::Host(host) => {
                host.bytes_mut()[..std::mem::size_of_val(data)].copy_from_slice(bytemuck::cast_slice(data));
                Ok(())
            }
            Storage::Gpu(a) => a.gpu.upload(bytemuck::cast_slice(data), a.address),
        }
    }

    /// A copy of the elements on the host; waits for the device.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, DeviceError> {
        match &self.storage {
            Storage::Host(_) => Ok(self.as_slice()?.to_vec()),
            Storage::Gpu(a) => {
                if T::DTYPE != self.dtype {
                    return Err(DeviceError::DType { expected: T::DTYPE, found: self.dtype });
                }
                let mut out = vec![T::zeroed(); self.len()];
                a.gpu.download(a.address, bytemuck::cast_slice_mut(&mut out))?;
                Ok(out)
            }
        }
    }

    /// The bytes of the elements, whatever their type, on the host; waits for the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DeviceError> {
        match &self.storage {
            Storage::Host(host) => Ok(host.bytes()[..self.bytes()].to_vec()),
            Storage::Gpu(a) => {
                let mut bytes = vec![0; self.bytes()];
                a.gpu.download(a.address, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Replaces all elements by what [`to_bytes`](Tensor::to_bytes) gave of a tensor of the same type and size.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.len() != self.bytes() {
            let (expected, found) = (self.bytes(), bytes.len());
            return Err(DeviceError::Length { what: "write_bytes", expected, found });
        }
        match &mut self.storage {
            Storage::Host(host) => {
                host.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            Storage::Gpu(a) => a.gpu.upload(bytes, a.address),
        }
    }

    /// The elements widened to f32; waits for the device. For f32 and bf16.
    pub fn to_f32(&self) -> Result<Vec<f32>, DeviceError> {
        match self.dtype {
            DType::F32 => self.to_vec(),
            DType::Bf16 => Ok(self.to_vec::<bf16>()?.into_iter().map(bf16::to_f32).collect()),
            found => Err(DeviceError::DType { expected: DType::F32, found }),
        }
    }

    /// Copies all elements from a tensor of the same size, type and device.
    pub fn copy_from(&mut self, source: &Tensor) -> Result<(), DeviceError> {
        if source.dtype != self.dtype {
            return Err(DeviceError::DType { expected: self.dtype, found: source.dtype });
        }
        if source.len() != self.len() {
            return Err(DeviceError::Length { what: "copy", expected: self.len(), found: source.len() });
        }
        let bytes = self.bytes();
        match (&mut self.storage, &source.storage) {
            (Storage::Host(to), Storage::Host(from)) => {
                to.bytes_mut()[..bytes].copy_from_slice(&from.bytes()[..bytes]);
                Ok(())
            }
            (Storage::Gpu(to), Storage::Gpu(from)) if to.gpu == from.gpu => {
                to.gpu.copy(from.address, to.address, bytes)
            }
            (Storage::Host(_), Storage::Gpu(a)) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
            (Storage::Gpu(a), _) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
        }
    }

    /// Copies `rows` whole rows from row `from` of `source` to row `to` of this tensor.
    pub fn copy_rows(&mut self, to: usize, source: &Tensor, from: usize, rows: usize) -> Result<(), DeviceError> {
        let row = self.columns() * self.dtype.size();
        if source.dtype != self.dtype {
            return Err(DeviceError::DType { expected: self.dtype, found: source.dtype });
        }
        if source.columns() != self.columns() {
            let (expected, found) = (self.columns(), source.columns());
            return Err(DeviceError::Length { what: "copy_rows: columns", expected, found });
        }
        let available = self.rows().saturating_sub(to).min(source.rows().saturating_sub(from));
        if rows > available {
            return Err(DeviceError::Length { what: "copy_rows: rows", expected: available, found: rows });
        }
        let (to, from, bytes) = (to * row, from * row, rows * row);
        match (&mut self.storage, &source.storage) {
            (Storage::Host(a), Storage::Host(b)) => {
                a.bytes_mut()[to..to + bytes].copy_from_slice(&b.bytes()[from..from + bytes]);
                Ok(())
            }
            (Storage::Gpu(a), Storage::Gpu(b)) if a.gpu == b.gpu => {
                a.gpu.copy(b.address + from as u64, a.address + to as u64, bytes)
            }
            (Storage::Host(_), Storage::Gpu(a)) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
            (Storage::Gpu(a), _) => Err(DeviceError::NotOnHost(a.gpu.name().into())),
        }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&mut self) -> Result<(), DeviceError> {
        self.fill_byte(0)
    }

    /// Sets the bytes of some rows to zero.
    pub fn zero_rows(&mut self, rows: std::ops::Range<usize>) -> Result<(), DeviceError> {
        if rows.end > self.rows() || rows.start > rows.end {
            return Err(DeviceError::Length { what: "zero_rows", expected: self.rows(), found: rows.end });
        }
        let row = self.columns() * self.dtype.size();
        let (at, bytes) = (rows.start * row, rows.len() * row);
        match &mut self.storage {
            Storage::Host(host) => {
                host.bytes_mut()[at..at + bytes].fill(0);
                Ok(())
            }
            Storage::Gpu(_) if bytes == 0 => Ok(()),
            Storage::Gpu(a) => a.gpu.fill(a.address + at as u64, 0, bytes),
        }
    }

    /// Sets every byte; 0xFF makes every f32 and bf16 a NaN, which is how tests poison outputs.
    pub fn fill_byte(&mut self, byte: u8) -> Result<(), DeviceError> {
        let bytes = self.bytes();
        match &mut self.storage {
            Storage::Host(host) => {
                host.bytes_mut()[..bytes].fill(byte);
                Ok(())
            }
            Storage::Gpu(_) if bytes == 0 => Ok(()),
            Storage::Gpu(a) => a.gpu.fill(a.address, byte, bytes),
        }
    }

    /// A copy on another device.
    pub fn to_device(&self, device: &Device) -> Result<Tensor, DeviceError> {
        match self.dtype {
            DType::F32 => Tensor::from_vec(device, self.to_vec::<f32>()?, &self.shape),
            DType::Bf16 => Tensor::from_vec(device, self.to_vec::<bf16>()?, &self.shape),
            DType::U32 => Tensor::from_vec(device, self.to_vec::<u32>()?, &self.shape),
            DType::U8 => Tensor::from_vec(device, self.to_vec::<u8>()?, &self.shape),
        }
    }
}
