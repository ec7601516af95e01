// Standard normal values times a scale, by Box and Muller's transform of Philox's words: as in src/ops/normal.rs.
#include "kernel.cuh"
#include "tile/philox.cuh"
#include "tile/vector.cuh"

// 23 bits and a half: never 0, never 1, and exact in f32.
__device__ __forceinline__ float uniform(uint32_t word) { return ((float)(word >> 9) + 0.5f) * 0x1p-23f; }

__device__ __forceinline__ void box_muller(uint32_t a, uint32_t b, float scale, float* two) {
    const float radius = __fmul_rn(__fsqrt_rn(__fmul_rn(-2.0f, logf(uniform(a)))), scale);
    float sine, cosine;
    sincospif(2.0f * uniform(b), &sine, &cosine);
    two[0] = __fmul_rn(radius, cosine);
    two[1] = __fmul_rn(radius, sine);
}

template <class T> __device__ __forceinline__ void normal(const NormalParams& p) {
    my_eight(p.count, [&](auto kind, uint64_t i) {
        Eight e;
#pragma unroll
        for (int quad = 0; quad < 2; quad++) {
            const uint64_t at = i / 4 + quad;
            const uint4 counter = make_uint4((uint32_t)at, (uint32_t)(at >> 32), p.stream, KIUNGO_NORMAL_COUNTER);
            const uint4 words = philox(counter, make_uint2(p.seed_low, p.seed_high));
            box_muller(words.x, words.y, p.scale, e.v + quad * 4);
            box_muller(words.z, words.w, p.scale, e.v + quad * 4 + 2);
        }
        store_eight(kind, reinterpret_cast<T*>(p.y), i, p.count, e);
    });
}

KERNEL(normal_f32, NormalParams, 256) { normal<float>(p); }
KERNEL(normal_bf16, NormalParams, 256) { normal<bf16>(p); }
