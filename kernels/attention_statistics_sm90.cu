// What attention_backward_sm90.cu needs of its queries, and zeros where its blocks count.
#include "kernel.cuh"
#include "tile/attention.cuh"
#include "tile/vector.cuh"

constexpr int THREADS = 256, ROUNDS = 4;

// lse times log2 e and delta = d_o . o of each query, in tiles as they pass; zeros beyond the last. A row has DIM / 8 lanes.
template <int DIM> __device__ __forceinline__ void attention_statistics(const AttentionBackwardSm90Params& params) {
    constexpr uint32_t QUERIES = KIUNGO_ATTENTION_PASSING / DIM, LANES = DIM / 8, ROWS = THREADS / LANES;
    const AttentionParams& p = params.attention;
    const uint32_t thread = blockIdx.x * THREADS + threadIdx.x, lane = threadIdx.x % LANES;
    if (thread <= p.query_heads * params.tiles) reinterpret_cast<uint32_t*>(params.turns)[thread] = 0;
    Packed<bf16> o[ROUNDS], d_o[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const uint32_t row = (blockIdx.x * ROUNDS + i) * ROWS + threadIdx.x / LANES;
        const size_t at = (size_t)min(row, p.tokens * p.query_heads - 1) * DIM + lane * 8;
        o[i] = load_packed(reinterpret_cast<const bf16*>(p.o) + at);
        d_o[i] = load_packed(reinterpret_cast<const bf16*>(p.d_o) + at);
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const uint32_t row = (blockIdx.x * ROUNDS + i) * ROWS + threadIdx.x / LANES;
        const uint32_t token = row / p.query_heads, head = row % p.query_heads;
        const Eight x = unpack(o[i]), y = unpack(d_o[i]);
        float delta = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) delta = fmaf(x.v[j], y.v[j], delta);
#pragma unroll
        for (int offset = LANES / 2; offset; offset /= 2) delta += __shfl_xor_sync(0xffffffffu, delta, offset);
        if (lane != 0 || token >= params.tiles * QUERIES) continue;
        const bool any = token < p.tokens;
        float* to = reinterpret_cast<float*>(params.statistics) +
                    ((size_t)head * params.tiles + token / QUERIES) * (2 * QUERIES) + token % QUERIES;
        to[0] = any ? reinterpret_cast<const float*>(p.lse)[row] * LOG2_E : 0.0f;
        to[QUERIES] = any ? delta : 0.0f;
    }
}

KERNEL(attention_statistics_sm90_128, AttentionBackwardSm90Params, THREADS) { attention_statistics<128>(p); }
KERNEL(attention_statistics_sm90_64, AttentionBackwardSm90Params, THREADS) { attention_statistics<64>(p); }
