pub const KIUNGO_NF4_BLOCK: u32 = 64;
pub const KIUNGO_NF4_NESTED_BLOCK: u32 = 256;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RmsnormForwardParams {
    pub x: u64,
    pub weight: u64,
    pub y: u64,
    pub inv_rms: u64,
    pub hidden: u32,
    pub eps: f32,
}
