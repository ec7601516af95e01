// Causal attention, forward, on the tensor cores of sm_80, for bf16 heads of 64 and 128 features: FlashAttention-2
// (Dao 2023, arXiv 2307.08691) over the rows of tile/attention.cuh. A block holds the queries of BM rows and walks over
// their keys in steps of BN with the softmax of what it has seen so far.
//
// Budget at 128 features: a warp holds 32 rows, so that every fragment of K and V that it reads serves two mma; 128
// registers a thread for o and 64 for scores, up to 255 in all. Q, K and V take 64 KB of shared memory. Two blocks a
// multiprocessor: one computes while the other waits. V arrives behind the first product, the next K behind the second.
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

    // From scores s to weights 2^(scale * (s - largest)); shrinks o to the new maximum.
    template <int N, int W>
    __device__ __forceinline__ LeftSide<M_TILES, N * 8> update(float (&s)[M_TILES][N][4], float (&o)[M_TILES][W][4], float scale) {
        LeftSide<M_TILES, N * 8> weights;
#pragma unroll
        for (int row = 0; row < M_TILES * 2; row++) {
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
            weights.set_row(row, s);
#pragma unroll
            for (int j = 0; j < W; j++) {
                o[i][j][h] *= shrink;
                o[i][j][h + 1] *= shrink;
            }
        }
        return weights;
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
#pragma unroll
        for (int j = 0; j < W; j++) {
            o[i / 2][j][i % 2 * 2] *= inverse;
            o[i / 2][j][i % 2 * 2 + 1] *= inverse;
        }
    }
}

template <int DIM, int M_TILES, int BN> __device__ __forceinline__ void attention_forward(const AttentionParams& p) {
    constexpr int BM = ATTENTION_WARPS * M_TILES * 16, THREADS = ATTENTION_THREADS;
    DYNAMIC_SHARED(bf16, q);
    __shared__ Reach reach;  // the loop reads it from here: there are too few registers
    bf16 *k = q + BM * DIM, *v = k + BN * DIM;
    // Later tokens have more keys: the longest work first.
    const uint32_t head = blockIdx.x % p.key_value_heads, row0 = (gridDim.x - 1 - blockIdx.x) / p.key_value_heads * BM;
    const QueryRows rows{p, head};
    const KeyRows keys{p, head};
    copy_rows<DIM, BM, THREADS>(q, rows, row0, p.q);
    const Reach seen = keys_seen(rows, row0, BM);
    uint32_t key = seen.first;
    copy_rows<DIM, BN, THREADS>(k, keys, key, p.k);
    cp_async_commit();
    if (threadIdx.x == 0) reach = seen;

    OnlineSoftmax<M_TILES> softmax;
    float o[M_TILES][DIM / 8][4] = {};
    do {
        float s[M_TILES][BN / 8][4];
        cp_async_wait<0>();
        __syncthreads();  // K has arrived, and all have done with V
        copy_rows<DIM, BN, THREADS>(v, keys, key, p.v);
        cp_async_commit();
        multiply_rows<DIM, M_TILES, BN>(s, q, warp_row<M_TILES>(), k);
        cp_async_wait<0>();
        __syncthreads();  // V has arrived, and all have done with K
        if (!reach.all(key, BN)) Visible<M_TILES>::keys(rows, row0 + warp_row<M_TILES>()).mask(s, key, -INFINITY);
        const auto weights = softmax.update(s, o, p.scale_log2);
        if (key + BN < reach.end) copy_rows<DIM, BN, THREADS>(k, keys, key + BN, p.k);
        cp_async_commit();
        add_product<DIM, M_TILES, BN>(o, weights, v);
        key += BN;
    } while (key < reach.end);
    const uint32_t first = row0 + warp_row<M_TILES>();
    finish(rows, first, softmax, o);
    store_rows<DIM, M_TILES>(o, q, first - row0, p.o, rows, first);
}

// Long sequences, and short ones, for which a block is half as many rows and takes all their keys in a step.
// src/ops/attention/cuda.rs knows the tiles' sizes and chooses.
KERNEL(attention_forward_128, AttentionParams, ATTENTION_THREADS, 2) { attention_forward<128, 2, 64>(p); }
KERNEL(attention_forward_64, AttentionParams, ATTENTION_THREADS, 2) { attention_forward<64, 2, 64>(p); }
KERNEL(attention_forward_short_128, AttentionParams, ATTENTION_THREADS, 4) { attention_forward<128, 1, 32>(p); }
KERNEL(attention_forward_short_64, AttentionParams, ATTENTION_THREADS, 4) { attention_forward<64, 1, 32>(p); }
