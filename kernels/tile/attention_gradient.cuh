// What the backward kernels of attention share: from scores to weights, from weights to the gradient of scores.
#pragma once
#include "kernel.cuh"
#include "ptx/math.cuh"
#include "tile/attention.cuh"
#include "tile/products.cuh"
#include "tile/vector.cuh"

// delta = d_o . o of a warp's rows, to memory for the keys' kernel, and with lse times log2 e to shared memory.
template <int DIM, int ROWS, class Rows>
__device__ __forceinline__ void prepare_rows(const AttentionParams& p, const Rows& rows, uint32_t first, float* lse,
                                             float* delta) {
    constexpr int LANES = DIM / 8, STEP = 32 / LANES;
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const uint32_t line = lane / LANES + i * STEP, row = first + line, at = rows.at(min(row, rows.count() - 1));
        const size_t from = (size_t)at * DIM + lane % LANES * 8;
        const Eight d_o = load_eight(reinterpret_cast<const bf16*>(p.d_o) + from);
        const Eight o = load_eight(reinterpret_cast<const bf16*>(p.o) + from);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(d_o.v[j], o.v[j], sum);
#pragma unroll
        for (int offset = LANES / 2; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        if (lane % LANES != 0) continue;
        lse[line] = reinterpret_cast<const float*>(p.lse)[at] * LOG2_E;
        delta[line] = sum;
        if (row < rows.count()) reinterpret_cast<float*>(p.delta)[at] = sum;
    }
}

// p in the place of the scores s; `lse` gives that of an element's query, times log2 e.
template <int M_TILES, int N, class Lse>
__device__ __forceinline__ void to_weights(float (&s)[M_TILES][N][4], float scale, const Lse& lse) {
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[i][j][e] = exp2_approx(fmaf(s[i][j][e], scale, -lse(i, j, e)));
        }
    }
}

// ds in the place of dp = d_o v^T; `delta` gives that of an element's query.
template <int M_TILES, int N, class Delta>
__device__ __forceinline__ void to_gradient(float (&dp)[M_TILES][N][4], const float (&p)[M_TILES][N][4], const Delta& delta) {
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) dp[i][j][e] = p[i][j][e] * (dp[i][j][e] - delta(i, j, e));
        }
    }
}

// The same two of scores whose columns are queries: `lse` (times log2 e) and `delta` in shared memory, a float a column.
template <int N> __device__ __forceinline__ void weigh_columns(float (&s)[1][N][4], float scale, const float* lse) {
    const uint32_t pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float2 two = *reinterpret_cast<const float2*>(lse + j * 8 + pair);
#pragma unroll
        for (int e = 0; e < 4; e++) s[0][j][e] = exp2_approx(fmaf(s[0][j][e], scale, e % 2 ? -two.y : -two.x));
    }
}

// From the weights as they are multiplied with, in half the registers.
template <int N>
__device__ __forceinline__ void gradient_columns(float (&dp)[1][N][4], const LeftSide<1, N * 8>& p, const float* delta) {
    const uint32_t pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float2 two = *reinterpret_cast<const float2*>(delta + j * 8 + pair);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const uint32_t weights = p.pairs[0][j / 2][j % 2 * 2 + row];
            float *x = &dp[0][j][row * 2], *y = x + 1;
            *x = __uint_as_float(weights << 16) * (*x - two.x);
            *y = __uint_as_float(weights & 0xffff0000u) * (*y - two.y);
        }
    }
}

template <int M_TILES, int N> __device__ __forceinline__ void scale_all(float (&x)[M_TILES][N][4], float factor) {
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) x[i][j][e] *= factor;
        }
    }
}
