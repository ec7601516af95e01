// Matrix products in f32 on the ordinary cores, for operands of any type, shape and alignment.
#pragma once
#include "kernel.cuh"

// BM x BN of c a block. A thread sums 4x4 of it over every GROUPS-th k; the groups' sums are added in their order.
// More groups keep a block busy where BM x BN is small.
template <int BM, int BN, int BK, int GROUPS> struct Simt {
    static constexpr int TILES = BM / 4 * (BN / 4);
    static constexpr int THREADS = TILES * GROUPS;
    // Four more a line: lines stay aligned to 16 bytes, and a column's elements spread over the banks.
    static constexpr int LINE_A = BM + 4, LINE_B = BN + 4;
    static constexpr int STAGE = BK * (LINE_A + LINE_B), PARTIALS = GROUPS == 1 ? 0 : GROUPS * BM * BN;
    static constexpr int SHARED_FLOATS = STAGE > PARTIALS ? STAGE : PARTIALS;

    // Fills `lines` of ROWS values each: value(row, k) is called for neighbours in memory by neighbouring threads.
    template <int ROWS, class Value>
    static __device__ __forceinline__ void fill(float* lines, bool k_major, uint32_t row0, uint32_t k0, Value value) {
#pragma unroll 4
        for (int i = threadIdx.x; i < ROWS * BK; i += THREADS) {
            const int row = k_major ? i / BK : i % ROWS, k = k_major ? i % BK : i / ROWS;
            lines[k * (ROWS + 4) + row] = value(row0 + row, k0 + k);
        }
    }

    // a(row, k) and b(column, k) give the operands, zero outside them; store(row, column, sum) takes every sum of the
    // block's tile, also those outside c. `*_k_major`: neighbours in memory are neighbours in k.
    template <class A, class B, class Store>
    static __device__ __forceinline__ void run(uint32_t m0, uint32_t n0, uint32_t k, bool a_k_major, bool b_k_major, A a, B b,
                                               Store store) {
        __shared__ __align__(16) float shared[SHARED_FLOATS];
        float *lines_a = shared, *lines_b = shared + BK * LINE_A;
        const int group = threadIdx.x / TILES, tile = threadIdx.x % TILES;
        const int row = tile / (BN / 4) * 4, column = tile % (BN / 4) * 4;
        float sum[4][4] = {};
        for (uint32_t k0 = 0; k0 < k; k0 += BK) {
            __syncthreads();
            fill<BM>(lines_a, a_k_major, m0, k0, a);
            fill<BN>(lines_b, b_k_major, n0, k0, b);
            __syncthreads();
#pragma unroll 4
            for (int i = group; i < BK; i += GROUPS) {
                const float4 x = *reinterpret_cast<const float4*>(lines_a + i * LINE_A + row);
                const float4 y = *reinterpret_cast<const float4*>(lines_b + i * LINE_B + column);
                const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
                for (int r = 0; r < 4; r++) {
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[r][c] = fmaf(xs[r], ys[c], sum[r][c]);
                }
            }
        }
        if (GROUPS == 1) {
#pragma unroll
            for (int i = 0; i < 16; i++) store(m0 + row + i / 4, n0 + column + i % 4, sum[i / 4][i % 4]);
            return;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++) shared[group * BM * BN + (row + i / 4) * BN + column + i % 4] = sum[i / 4][i % 4];
        __syncthreads();
        for (int i = threadIdx.x; i < BM * BN; i += THREADS) {
            float total = shared[i];
#pragma unroll
            for (int g = 1; g < GROUPS; g++) total += shared[g * BM * BN + i];
            store(m0 + i / BN, n0 + i % BN, total);
        }
    }
};
