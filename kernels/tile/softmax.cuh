// The softmax of rows of scores that come piece by piece, as products leave them (tile/products.cuh).
#pragma once
#include "kernel.cuh"
#include "ptx/math.cuh"
#include "tile/attention.cuh"
#include "tile/products.cuh"
#include "tile/reduce.cuh"

// Maximum and sum of the exponentials of each of this lane's rows; the sum is the lane's part of it.
template <int M_TILES> struct OnlineSoftmax {
    float largest[M_TILES][2], sum[M_TILES][2];

    __device__ __forceinline__ OnlineSoftmax() {
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) {
            largest[i / 2][i % 2] = -INFINITY;
            sum[i / 2][i % 2] = 0.0f;
        }
    }

    // Over the four lanes of a row.
    template <class Op> static __device__ __forceinline__ float across(float x, Op op) {
        x = op(x, __shfl_xor_sync(0xffffffffu, x, 1));
        return op(x, __shfl_xor_sync(0xffffffffu, x, 2));
    }

    // Row `row` of the scores s becomes weights 2^(scale * (s - largest)); returns what shrinks the row of o to the new
    // maximum.
    template <int N> __device__ __forceinline__ float weigh(int row, float (&s)[M_TILES][N][4], float scale) {
        const int i = row / 2, h = row % 2 * 2;
        float m = largest[i][row % 2];
#pragma unroll
        for (int j = 0; j < N; j++) m = fmaxf(m, fmaxf(s[i][j][h], s[i][j][h + 1]));
        m = across(m, Max());
        // A row may see nothing yet: its sequence begins further on.
        const float base = m == -INFINITY ? 0.0f : m * scale;
        const float shrink = exp2_approx(fmaf(largest[i][row % 2], scale, -base));
        largest[i][row % 2] = m;
        float total = sum[i][row % 2] * shrink;
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int e = h; e < h + 2; e++) {
                s[i][j][e] = exp2_approx(fmaf(s[i][j][e], scale, -base));
                total += s[i][j][e];
            }
        }
        sum[i][row % 2] = total;
        return shrink;
    }

    // From scores to weights; shrinks o to the new maximum.
    template <int N, int W>
    __device__ __forceinline__ LeftSide<M_TILES, N * 8> update(float (&s)[M_TILES][N][4], float (&o)[M_TILES][W][4], float scale) {
        LeftSide<M_TILES, N * 8> weights;
#pragma unroll
        for (int row = 0; row < M_TILES * 2; row++) {
            const float shrink = weigh(row, s, scale);
            weights.set_row(row, s);
            scale_row(row, o, shrink);
        }
        return weights;
    }

    template <int W> static __device__ __forceinline__ void scale_row(int row, float (&o)[M_TILES][W][4], float factor) {
#pragma unroll
        for (int j = 0; j < W; j++) {
            o[row / 2][j][row % 2 * 2] *= factor;
            o[row / 2][j][row % 2 * 2 + 1] *= factor;
        }
    }
};

// Divides o by its sums and stores the logarithms of the sums of exponentials.
template <int M_TILES, int W>
__device__ __forceinline__ void finish(const QueryRows& rows, uint32_t first,
                                       const OnlineSoftmax<M_TILES>& softmax, float (&o)[M_TILES][W][4]) {
#pragma unroll
    for (int i = 0; i < M_TILES * 2; i++) {
        const uint32_t row = first + i * 8 + threadIdx.x % 32 / 4;
        const float sum = OnlineSoftmax<M_TILES>::across(softmax.sum[i / 2][i % 2], Add());
        const float lse = softmax.largest[i / 2][i % 2] * rows.p.scale + logf(sum), inverse = 1.0f / sum;
        if (threadIdx.x % 4 == 0 && row < rows.count()) reinterpret_cast<float*>(rows.p.lse)[rows.at(row)] = lse;
        softmax.scale_row(i, o, inverse);
    }
}
