//! The kernels built into this binary, and those loaded into a context.

use super::support;
use crate::device::error::failed;
use crate::device::{DeviceError, Launch, TensorMap};
use cudarc::driver::{CudaContext, CudaModule, sys};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// True if this binary holds CUDA kernels.
pub fn has_kernels() -> bool {
    !FATBINS.is_empty()
}

/// Modules built into this binary: file stem under `kernels/`, and the fatbin's bytes.
pub fn fatbins() -> &'static [(&'static str, &'static [u8])] {
    FATBINS
}

/// The version of the nvcc that compiled them.
pub fn nvcc_version() -> Option<&'static str> {
    option_env!("KIUNGO_NVCC")
}

/// What they are compiled for: `sm_80` is machine code of that compute capability, `compute_80` what later cards compile
/// when it is loaded. Empty in a build without kernels.
pub fn targets() -> &'static [&'static str] {
    TARGETS
}

/// Shared memory a block may use without asking, bytes: what its kernel declares and what its launch adds.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// The kernels of one context, loaded when they are first launched.
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<&'static str, Function>>,
    tensor_maps: Mutex<HashMap<TensorMap, EncodedMap>>,
}

/// The bytes of a CUtensorMap.
pub(super) type EncodedMap = [u64; 16];
/// Encoded maps that are kept: more than a step's launches have, few enough to start anew without notice.
const MOST_TENSOR_MAPS: usize = 4096;

#[derive(Clone, Copy)]
pub(super) struct Function {
    pub handle: sys::CUfunction,
    /// That a launch may add.
    shared_bytes: u32,
}
// SAFETY: a CUfunction is a handle that the driver lets any thread use.
unsafe impl Send for Function {}

impl Kernels {
    pub fn new(context: Arc<CudaContext>) -> Kernels {
        Kernels { context, modules: Mutex::default(), functions: Mutex::default(), tensor_maps: Mutex::default() }
    }

    /// The kernel of a launch, with the shared memory that the launch needs.
    pub fn function(&self, launch: &Launch) -> Result<Function, DeviceError> {
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        let mut f = match functions.get(launch.kernel) {
            Some(f) => *f,
            None => self.load(launch)?,
        };
        if launch.shared_bytes > f.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle belongs to a module that `self.modules` keeps loaded.
            unsafe { sys::cuFuncSetAttribute(f.handle, attribute, launch.shared_bytes as i32) }
                .result()
                .map_err(|e| failed(format!("{}: {} bytes of shared memory", launch.kernel, launch.shared_bytes), e))?;
            f.shared_bytes = launch.shared_bytes;
        }
        functions.insert(launch.kernel, f);
        Ok(f)
    }

    fn load(&self, launch: &Launch) -> Result<Function, DeviceError> {
        let missing = || DeviceError::NoSuchKernel { module: launch.module.into(), kernel: launch.kernel.into() };
        let mut modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        if !modules.contains_key(launch.module) {
            let (stem, image) = FATBINS.iter().find(|(stem, _)| *stem == launch.module).ok_or_else(missing)?;
            let card = || self.context.name().unwrap_or_default();
            let module = self
                .context
                .load_module(Ptx::from_binary(image.to_vec()))
                .map_err(|e| support::not_loaded(stem, &card(), targets(), e.0, e))?;
            modules.insert(stem, module);
        }
        let function = modules[launch.module].load_function(launch.kernel).map_err(|_| missing())?;
        // The handle stays valid: `self.modules` keeps the module loaded.
        let handle = function.cu_function();
        let mut declared = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: writes one int; the handle is valid.
        unsafe { sys::cuFuncGetAttribute(&mut declared, attribute, handle) }
            .result()
            .map_err(|e| failed(format!("shared memory of {}", launch.kernel), e))?;
        Ok(Function { handle, shared_bytes: DEFAULT_SHARED_BYTES.saturating_sub(declared as u32) })
    }

    /// A tensor map as the copy engine reads it.
    pub fn encode(&self, map: &TensorMap) -> Result<EncodedMap, DeviceError> {
        let mut kept = self.tensor_maps.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(encoded) = kept.get(map) {
            return Ok(*encoded);
        }
        let encoded = encode(map)?;
        if kept.len() >= MOST_TENSOR_MAPS {
            kept.clear();
        }
        kept.insert(*map, encoded);
        Ok(encoded)
    }
}

/// Encodes a tensor map. Dimensions go from the innermost outwards.
fn encode(map: &TensorMap) -> Result<EncodedMap, DeviceError> {
    const ELEMENT_BYTES: u64 = 2;
    let [rows, columns] = map.shape.map(|n| n as u64);
    let [block_rows, block_columns] = map.block.map(|n| n as u32);
    // The span of a swizzle is a box's line: the copy engine pads shorter lines to it.
    let swizzle = match block_columns as u64 * ELEMENT_BYTES {
        ..=32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        33..=64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays are as long as the rank, 2, says (one stride less); the call reads nothing at the address.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            map.address as *mut c_void,
            [columns, rows].as_ptr(),
            [columns * ELEMENT_BYTES].as_ptr(),
            [block_columns, block_rows].as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .map_err(|e| failed(format!("cuTensorMapEncodeTiled of {map:?}"), e))?;
    Ok(encoded.opaque)
}
