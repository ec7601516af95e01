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
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RmsnormBackwardParams {
    pub dy: u64,
    pub x: u64,
    pub weight: u64,
    pub inv_rms: u64,
    pub dx: u64,
    pub dweight: u64,
    pub tokens: u32,
    pub hidden: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4QuantizeParams {
    pub x: u64,
    pub codes: u64,
    pub absmax: u64,
    pub count: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4DoubleParams {
    pub absmax: u64,
    pub partials: u64,
    pub map: u64,
    pub codes: u64,
    pub nested_absmax: u64,
    pub offset: u64,
    pub blocks: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4DequantizeParams {
    pub codes: u64,
    pub absmax: u64,
    pub scale_codes: u64,
    pub map: u64,
    pub offset: u64,
    pub y: u64,
    pub count: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct GemmParams {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub accumulate: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct GemmSimtParams {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub accumulate: u32,
    pub a_stride_row: u32,
    pub a_stride_k: u32,
    pub b_stride_row: u32,
    pub b_stride_k: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct DropoutParams {
    pub threshold: u32,
    pub scale: f32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub stream: u32,
    pub step: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraParams {
    pub left: u64,
    pub right: u64,
    pub out: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub scale: f32,
    pub dropout: DropoutParams,
}
