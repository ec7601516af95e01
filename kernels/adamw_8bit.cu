// AdamW with 8-bit moments (tile/adamw_8bit.cuh), the gradient read. A warp has a block of moments; two blocks of threads a
// multiprocessor.
#include "kernel.cuh"
#include "tile/adamw_8bit.cuh"

constexpr int THREADS = 384;

template <class W, class G> __device__ __forceinline__ void adamw_8bit(const AdamwParams& p) {
    DYNAMIC_SHARED(Tables, tables);
    const AdamwStep step = adamw_step(p);
    if (step.stopped) return;
    fill(*tables, p);
    const uint64_t warps = gridDim.x * blockDim.x / 32, whole = p.count / KIUNGO_ADAMW_BLOCK;
    __shared__ float squares[THREADS];
    squares[threadIdx.x] = 0.0f;
    uint64_t block = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    Block<W> now, next;
    Packed<G> g, next_g;
    const auto load = [&](uint64_t block, auto kind) {
        next.load(p, block, kind);
        next_g = load_packed(kind, reinterpret_cast<const G*>(p.g), block * KIUNGO_ADAMW_BLOCK + threadIdx.x % 32 * 8, p.count);
    };
    if (block < whole) load(block, Whole());
    for (; block < whole; block += warps) {
        now = next, g = next_g;
        if (block + warps < whole) load(block + warps, Whole());
        update(p, step, *tables, squares, block, now, unpack(g), Whole());
    }
    if (block * KIUNGO_ADAMW_BLOCK < p.count) {
        load(block, Ragged());
        update(p, step, *tables, squares, block, next, unpack(next_g), Ragged());
    }
    add_squares(p, squares[threadIdx.x]);
}

// adamw_8bit_<weights>_<gradient>
KERNEL(adamw_8bit_f32_f32, AdamwParams, THREADS, 2) { adamw_8bit<float, float>(p); }
KERNEL(adamw_8bit_f32_bf16, AdamwParams, THREADS, 2) { adamw_8bit<float, bf16>(p); }
KERNEL(adamw_8bit_bf16_f32, AdamwParams, THREADS, 2) { adamw_8bit<bf16, float>(p); }
KERNEL(adamw_8bit_bf16_bf16, AdamwParams, THREADS, 2) { adamw_8bit<bf16, bf16>(p); }
