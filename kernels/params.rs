pub const KIUNGO_NF4_BLOCK: u32 = 64;
pub const KIUNGO_NF4_NESTED_BLOCK: u32 = 256;
pub const KIUNGO_STOPPED_FOR_GOOD: u32 = 2;
pub const KIUNGO_NORMAL_COUNTER: u32 = 4294967295;
pub const KIUNGO_NF4_LAYERS: u32 = 3;
pub const KIUNGO_LORA_JOBS: u32 = 6;
pub const KIUNGO_LORA_DOWN: u32 = 0;
pub const KIUNGO_LORA_DS: u32 = 1;
pub const KIUNGO_LORA_TOKENS: u32 = 2;
pub const KIUNGO_SQUARES_CHUNK: u32 = 16384;
pub const KIUNGO_POOLING_COLUMNS: u32 = 512;
pub const KIUNGO_POOLING_MEAN: u32 = 0;
pub const KIUNGO_POOLING_MEAN_NO_SINK: u32 = 1;
pub const KIUNGO_POOLING_LAST: u32 = 2;
pub const KIUNGO_ADAMW_BLOCK: u32 = 128;
pub const KIUNGO_ADAMW_LINEAR_ROWS: u32 = 8;
pub const KIUNGO_ADAMW_LINEAR_WARPS: u32 = 12;
pub const KIUNGO_ADAMW_LINEAR_TOKEN: u32 = 928;
pub const KIUNGO_ADAMW_SM90_LAYERS: u32 = 3;
pub const KIUNGO_ADAMW_SM90_ROWS: u32 = 32;
pub const KIUNGO_ADAMW_SM90_TOKENS: u32 = 64;
pub const KIUNGO_ADAMW_SM90_STAGES: u32 = 8;
pub const KIUNGO_ADAMW_SM90_STAGE: u32 = 20480;
pub const KIUNGO_ADAMW_SM90_THREADS: u32 = 512;
pub const KIUNGO_PAIRS_ROWS: u32 = 4;
pub const KIUNGO_CONTRAST_PAIRS: u32 = 8;
pub const KIUNGO_CONTRAST_COLUMNS: u32 = 128;
pub const KIUNGO_CONTRAST_SUMS: u32 = 80;
pub const KIUNGO_ATTENTION_KEYS: u32 = 128;
pub const KIUNGO_ATTENTION_PASSING: u32 = 8192;
pub const KIUNGO_IGNORE_LABEL: u32 = 4294967295;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwFactors {
    pub decay: f32,
    pub gradient: f32,
    pub beta2: f32,
    pub square: f32,
    pub root_correction: f32,
    pub eps: f32,
    pub step_size: f32,
    pub unused: f32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct StepState {
    pub adamw: AdamwFactors,
    pub max_norm: f32,
    pub step: u32,
    pub serial: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct StepStatus {
    pub gradient_norm: f32,
    pub factor: f32,
    pub stopped: u32,
    pub allowed: u32,
    pub skipped: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct StepRecord {
    pub loss: f32,
    pub gradient_norm: f32,
    pub stopped: u32,
    pub serial: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct StepJudgeParams {
    pub squares: u64,
    pub count: u64,
    pub loss: u64,
    pub state: u64,
    pub status: u64,
    pub ring: u64,
    pub slots: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RmsnormForwardParams {
    pub x: u64,
    pub residual: u64,
    pub weight: u64,
    pub y: u64,
    pub inv_rms: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub eps: f32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RmsnormBackwardParams {
    pub dy: u64,
    pub x: u64,
    pub weight: u64,
    pub inv_rms: u64,
    pub dx: u64,
    pub partials: u64,
    pub tokens: u32,
    pub hidden: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RmsnormPartialsParams {
    pub partials: u64,
    pub dweight: u64,
    pub rows: u32,
    pub hidden: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct ConvertParams {
    pub x: u64,
    pub y: u64,
    pub count: u64,
    pub first: u64,
    pub report: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct NormalParams {
    pub y: u64,
    pub count: u64,
    pub seed_low: u32,
    pub seed_high: u32,
    pub stream: u32,
    pub scale: f32,
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
pub struct Nf4LinearParams {
    pub x: u64,
    pub codes: u64,
    pub absmax: u64,
    pub scale_codes: u64,
    pub map: u64,
    pub offset: u64,
    pub y: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4BackwardParams {
    pub linear: Nf4LinearParams,
    pub parts: u64,
    pub count: u32,
    pub accumulate: u32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct TensorMap {
    pub opaque: [u64; 16usize],
}
impl Default for TensorMap {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4LinearSm90Params {
    pub codes: [TensorMap; 3usize],
    pub x: TensorMap,
    pub layers: [Nf4LinearParams; 3usize],
    pub tiles: [u32; 3usize],
    pub splits: u32,
    pub unused: [u32; 6usize],
}
impl Default for Nf4LinearSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4BackwardSm90Params {
    pub codes: [TensorMap; 3usize],
    pub dy: [TensorMap; 3usize],
    pub backward: Nf4BackwardParams,
    pub layers: [Nf4LinearParams; 3usize],
    pub steps: [u32; 3usize],
    pub unused: [u32; 1usize],
}
impl Default for Nf4BackwardSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct Nf4GemmSm90Params {
    pub codes: [TensorMap; 3usize],
    pub x: TensorMap,
    pub y: [TensorMap; 3usize],
    pub layers: [Nf4LinearParams; 3usize],
    pub unused: [u32; 10usize],
}
impl Default for Nf4GemmSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct GemmSm90Params {
    pub a: TensorMap,
    pub b: TensorMap,
    pub c_map: TensorMap,
    pub more_a: TensorMap,
    pub more_b: TensorMap,
    pub c: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub accumulate: u32,
    pub staged: u32,
    pub splits: u32,
    pub a_bytes: u32,
    pub more: u32,
    pub unused: [u32; 6usize],
}
impl Default for GemmSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
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
    pub state: u64,
    pub first: u64,
    pub threshold: u32,
    pub scale: f32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub stream: u32,
    pub step: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct PhiloxParams {
    pub factors: u64,
    pub first: u64,
    pub count: u64,
    pub dropout: DropoutParams,
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
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraThinJob {
    pub left: u64,
    pub right: u64,
    pub partials: u64,
    pub out: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub parts: u32,
    pub kind: u32,
    pub transposed: u32,
    pub blocks: u32,
    pub scale: f32,
    pub dropout: DropoutParams,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraThinParams {
    pub jobs: [LoraThinJob; 6usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraSideParams {
    pub x: u64,
    pub side: u64,
    pub rows: u32,
    pub rank: u32,
    pub width: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraSumJob {
    pub partials: u64,
    pub out: u64,
    pub m: u32,
    pub n: u32,
    pub parts: u32,
    pub transposed: u32,
    pub accumulate: u32,
    pub scale: f32,
    pub side: u64,
    pub width: u32,
    pub side_scale: f32,
    pub blocks: u32,
    pub unused: u32,
    pub factor: LoraSideParams,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraSumParams {
    pub jobs: [LoraSumJob; 6usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraWideJob {
    pub product: LoraParams,
    pub blocks: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraWideParams {
    pub jobs: [LoraWideJob; 6usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraSidesParams {
    pub a: u64,
    pub a_side: u64,
    pub b: LoraSideParams,
    pub ready: u64,
    pub tiles: u32,
    pub k: u32,
    pub ranks: u32,
    pub split: u32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct LoraSm90Params {
    pub gemm: GemmSm90Params,
    pub factor: TensorMap,
    pub s: u64,
    pub left: u64,
    pub ready: u64,
    pub rank: u32,
    pub width: u32,
    pub takers: u32,
    pub scale: f32,
    pub unused: [u32; 6usize],
}
impl Default for LoraSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct SwigluParams {
    pub gate: u64,
    pub up: u64,
    pub y: u64,
    pub dy: u64,
    pub dgate: u64,
    pub dup: u64,
    pub count: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct ResidualParams {
    pub x: u64,
    pub y: u64,
    pub count: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct SquaresParams {
    pub gradient: u64,
    pub squares: u64,
    pub count: u64,
    pub accumulate: u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct RopeParams {
    pub x: [u64; 2usize],
    pub positions: u64,
    pub cos: u64,
    pub sin: u64,
    pub columns: [u32; 2usize],
    pub head_dim: u32,
    pub position_count: u32,
    pub sign: f32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct EmbeddingParams {
    pub table: u64,
    pub ids: u64,
    pub y: u64,
    pub tokens: u32,
    pub vocab: u32,
    pub hidden: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct PoolingParams {
    pub h: u64,
    pub offsets: u64,
    pub y: u64,
    pub hidden: u32,
    pub pooling: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct CosineParams {
    pub x: u64,
    pub y: u64,
    pub norm: u64,
    pub dx: u64,
    pub hidden: u32,
    pub min_norm: f32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwParams {
    pub w: u64,
    pub g: u64,
    pub m: u64,
    pub v: u64,
    pub copy: u64,
    pub count: u64,
    pub state: u64,
    pub status: u64,
    pub m_exponents: u64,
    pub v_exponents: u64,
    pub squares: u64,
    pub factors: AdamwFactors,
    pub seed_low: u32,
    pub seed_high: u32,
    pub stream: u32,
    pub step: u32,
    pub copy_is_bf16: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearParams {
    pub adamw: AdamwParams,
    pub dy: u64,
    pub x: u64,
    pub tokens: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub unused: u32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearMaps {
    pub w: TensorMap,
    pub m: TensorMap,
    pub v: TensorMap,
    pub dy: TensorMap,
}
impl Default for AdamwLinearMaps {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearLayer {
    pub adamw: AdamwParams,
    pub outputs: u32,
    pub stages: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearShares {
    pub strips: u32,
    pub height: u32,
    pub upper: u32,
    pub members: u32,
    pub extras: u32,
    pub unused: u32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearSm90Params {
    pub maps: [AdamwLinearMaps; 3usize],
    pub layers: [AdamwLinearLayer; 3usize],
    pub x: u64,
    pub parts: u64,
    pub tokens: u32,
    pub inputs: u32,
    pub shares: AdamwLinearShares,
    pub unused: [u32; 18usize],
}
impl Default for AdamwLinearSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AdamwLinearSumParams {
    pub parts: u64,
    pub dx: u64,
    pub shares: AdamwLinearShares,
    pub tokens: u32,
    pub inputs: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct PairsParams {
    pub unit: u64,
    pub similarity: u64,
    pub dunit: u64,
    pub n: u32,
    pub hidden: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct InBatchParams {
    pub similarity: u64,
    pub excluded: u64,
    pub loss: u64,
    pub dsimilarity: u64,
    pub workspace: u64,
    pub n: u32,
    pub sides: u32,
    pub temperature: f32,
    pub margin: f32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct ContrastParams {
    pub h: u64,
    pub dh: u64,
    pub offsets: u64,
    pub pooled: u64,
    pub dpooled: u64,
    pub sums: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub pooling: u32,
    pub triplet: u32,
    pub min_norm: f32,
    pub unused: u32,
    pub loss: InBatchParams,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct TripletGivenParams {
    pub anchor: u64,
    pub positive: u64,
    pub negative: u64,
    pub loss: u64,
    pub danchor: u64,
    pub dpositive: u64,
    pub dnegative: u64,
    pub workspace: u64,
    pub n: u32,
    pub hidden: u32,
    pub margin: f32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AttentionParams {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub o: u64,
    pub lse: u64,
    pub positions: u64,
    pub ends: u64,
    pub d_o: u64,
    pub dq: u64,
    pub dk: u64,
    pub dv: u64,
    pub delta: u64,
    pub tokens: u32,
    pub query_heads: u32,
    pub key_value_heads: u32,
    pub group: u32,
    pub group_reciprocal: u32,
    pub dim: u32,
    pub scale: f32,
    pub scale_log2: f32,
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AttentionSm90Params {
    pub k: TensorMap,
    pub v: TensorMap,
    pub attention: AttentionParams,
    pub taken: u64,
    pub unused: [u32; 14usize],
}
impl Default for AttentionSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct AttentionBackwardSm90Params {
    pub q: TensorMap,
    pub d_o: TensorMap,
    pub k: TensorMap,
    pub v: TensorMap,
    pub attention: AttentionParams,
    pub statistics: u64,
    pub sums: u64,
    pub turns: u64,
    pub tiles: u32,
    pub unused: [u32; 9usize],
}
impl Default for AttentionBackwardSm90Params {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct CrossEntropyParams {
    pub logits: u64,
    pub dlogits: u64,
    pub labels: u64,
    pub counted: u64,
    pub terms: u64,
    pub loss: u64,
    pub tokens: u32,
    pub vocab: u32,
    pub first: u32,
    pub unused: u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, ::bytemuck::Pod, ::bytemuck::Zeroable)]
pub struct TopKParams {
    pub similarity: u64,
    pub scores: u64,
    pub indices: u64,
    pub candidates: u32,
    pub k: u32,
}
