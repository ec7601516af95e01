// AdamW with 8-bit moments (tile/adamw_8bit.cuh), the gradient read. A warp has four blocks of moments.
#include "kernel.cuh"
#include "tile/adamw_8bit.cuh"

constexpr int THREADS = 256, RESIDENT = 2, WARP = 4 * KIUNGO_ADAMW_BLOCK;

template <class W, class G> __device__ __forceinline__ void adamw_8bit(const AdamwParams& p) {
    const uint64_t warps = (uint64_t)gridDim.x * (THREADS / 32), whole = p.count / WARP;
    uint64_t at = (uint64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const auto first = [](uint64_t at) {
        return at * WARP + threadIdx.x % 4 * KIUNGO_ADAMW_BLOCK + threadIdx.x % 32 / 4 * 8;
    };
    Lane<W> now, next;
    Packed<G> next_g[2];
    const auto load = [&](uint64_t at, auto kind) {
        const uint64_t i = first(at);
        next.load(p, i, kind);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            next_g[half] = load_packed(kind, reinterpret_cast<const G*>(p.g), i + half * HALF, p.count);
        }
    };
    const auto take = [&](float (&g)[LANE]) {
        __syncwarp();
        now = next;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const Eight eight = unpack(next_g[half]);
#pragma unroll
            for (int j = 0; j < 8; j++) g[half * 8 + j] = eight.v[j];
        }
    };
    if (at < whole) load(at, Whole());
    const AdamwStep step = adamw_step(p);
    if (step.stopped) return;
    const BlockFactors factors(step);
    float squares = 0.0f, g[LANE];
    for (; at < whole; at += warps) {
        take(g);
        if (at + warps < whole) load(at + warps, Whole());
        update(p, step, factors, squares, first(at), now, g, Whole());
    }
    if (at * WARP < p.count) {
        load(at, Ragged());
        take(g);
        update(p, step, factors, squares, first(at), now, g, Ragged());
    }
    add_squares(p, squares);
}

// adamw_8bit_<weights>_<gradient>; f32 weights and what is on its way beside them do not fit twice on every card.
KERNEL(adamw_8bit_f32_f32, AdamwParams, THREADS) { adamw_8bit<float, float>(p); }
KERNEL(adamw_8bit_f32_bf16, AdamwParams, THREADS) { adamw_8bit<float, bf16>(p); }
KERNEL(adamw_8bit_bf16_f32, AdamwParams, THREADS, RESIDENT) { adamw_8bit<bf16, float>(p); }
KERNEL(adamw_8bit_bf16_bf16, AdamwParams, THREADS, RESIDENT) { adamw_8bit<bf16, bf16>(p); }
