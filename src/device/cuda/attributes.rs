//! What a launch says beside its grid.

use cudarc::driver::sys;

/// The value that says how many blocks a cluster has.
pub fn cluster_value(blocks: u32) -> sys::CUlaunchAttributeValue {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 };
    value
}

/// Blocks of a cluster.
pub fn cluster(blocks: u32) -> sys::CUlaunchAttribute {
    let (id, value) = (sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster_value(blocks));
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}

/// Lets a kernel start before the one before it has ended: it waits for that itself (`kernel.cuh`).
pub fn overlap() -> sys::CUlaunchAttribute {
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}
