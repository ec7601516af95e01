// Causal attention, forward, on the tensor cores of sm_80, for bf16 heads of 64 and 128 features: FlashAttention-2
// (Dao 2023, arXiv 2307.08691) over the rows of tile/attention.cuh. A block holds the queries of BM rows and walks over
// their keys in steps of BN with the softmax of what it has seen so far.
//
// Budget at 128 features: a warp holds 32 rows, so that every fragment of K and V that it reads serves two mma; 128
// registers a thread for o and 64 for scores, up to 255 in all. Q, K and V take 64 KB of shared memory. Two blocks a
// multiprocessor: one computes while the other waits. V arrives behind the first product, the next K behind the second.
#include "kernel.cuh"
#include "tile/attention.cuh"
#include "tile/products.cuh"
#include "tile/softmax.cuh"

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
KERNEL(attention_forward_short_128, AttentionParams, ATTENTION_THREADS, 4) {
    let_next_in(4);
    attention_forward<128, 1, 32>(p);
}
KERNEL(attention_forward_short_64, AttentionParams, ATTENTION_THREADS, 4) {
    let_next_in(4);
    attention_forward<64, 1, 32>(p);
}
