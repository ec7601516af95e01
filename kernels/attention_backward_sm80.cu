// Gradients of causal attention on the tensor cores of sm_80, for bf16 heads of 64 and 128 features, over the rows of
// tile/attention.cuh. Two kernels, so that every sum stays in one thread's registers and repeats to the bit: one block
// walks over the keys of its queries for dq, one over the queries of its keys for dk and dv. That computes the scores and
// d_o v^T twice, seven products where atomics would do with five. With p = 2^(scale' s - lse') and ds = p (d_o v^T - delta):
// dq = scale ds k, dk = scale ds^T q, dv = p^T d_o.
//
// Budget at 128 features: dq holds 32 rows a warp, 128 registers a thread for dq and 32 each for scores and d_o v^T, with
// 96 KB of shared memory (q, d_o and two stages of k and v). dk and dv hold 16 keys a warp, 64 registers each and 32 each
// for the two products, with 97 KB (k, v and two stages of q and d_o). Two blocks a multiprocessor of 228 KB.
#include "kernel.cuh"
#include "tile/attention.cuh"
#include "tile/attention_gradient.cuh"
#include "tile/products.cuh"

template <int DIM, int M_TILES, int BN> __device__ __forceinline__ void attention_dq(const AttentionParams& p) {
    constexpr int BM = ATTENTION_WARPS * M_TILES * 16, THREADS = ATTENTION_THREADS, STAGE = 2 * BN * DIM;
    // The loop reads these from here: there are too few registers.
    __shared__ float lse[BM], delta[BM];
    __shared__ Reach reach;
    DYNAMIC_SHARED(bf16, q);
    bf16 *d_o = q + BM * DIM, *ring = d_o + BM * DIM;
    // Later tokens have more keys: the longest work first.
    const uint32_t head = blockIdx.x % p.key_value_heads, row0 = (gridDim.x - 1 - blockIdx.x) / p.key_value_heads * BM;
    const QueryRows rows{p, head};
    const KeyRows keys{p, head};
    copy_rows<DIM, BM, THREADS>(q, rows, row0, p.q, p.d_o);
    const Reach seen = keys_seen(rows, row0, BM);
    uint32_t key = seen.first;
    copy_rows<DIM, BN, THREADS>(ring, keys, key, p.k, p.v);
    cp_async_commit();
    if (threadIdx.x == 0) reach = seen;
    const uint32_t warp = warp_row<M_TILES>();
    prepare_rows<DIM, M_TILES * 16>(p, rows, row0 + warp, lse + warp, delta + warp);

    float dq[M_TILES][DIM / 8][4] = {};
    do {
        cp_async_wait<0>();
        __syncthreads();  // this stage has arrived, and all have done with the other
        const uint32_t stage = (key - reach.first) / BN % 2;
        if (key + BN < reach.end) copy_rows<DIM, BN, THREADS>(ring + (stage ^ 1) * STAGE, keys, key + BN, p.k, p.v);
        cp_async_commit();
        const bf16 *k = ring + stage * STAGE, *v = k + BN * DIM;
        const uint32_t row = warp_row<M_TILES>(), line = row + fresh_thread() % 32 / 4;
        float s[M_TILES][BN / 8][4], ds[M_TILES][BN / 8][4];
        multiply_rows<DIM, M_TILES, BN>(s, q, row, k);
        to_weights(s, p.scale_log2, [&](int i, int, int e) { return lse[line + i * 16 + e / 2 * 8]; });
        if (!reach.all(key, BN)) Visible<M_TILES>::keys(rows, row0 + row).mask(s, key, 0.0f);
        multiply_rows<DIM, M_TILES, BN>(ds, d_o, row, v);
        to_gradient(ds, s, [&](int i, int, int e) { return delta[line + i * 16 + e / 2 * 8]; });
        add_product<DIM, M_TILES, BN>(dq, LeftSide<M_TILES, BN>(ds), k);
        key += BN;
    } while (key < reach.end);
    scale_all(dq, p.scale);
    const uint32_t row = warp_row<M_TILES>();
    store_rows<DIM, M_TILES>(dq, q, row, p.dq, rows, row0 + row);
}

// Starts copying the lse and delta of rows first, first + 1, ..., of which a thread brings one.
template <int ROWS>
__device__ __forceinline__ void copy_statistics(float (&to)[2][ROWS], const QueryRows& rows, uint32_t first) {
    static_assert(2 * ROWS <= ATTENTION_THREADS, "a thread brings one number");
    const uint32_t thread = fresh_thread(), which = thread / ROWS, row = first + thread % ROWS;
    const float* from = reinterpret_cast<const float*>(which ? rows.p.delta : rows.p.lse) + rows.at(row);
    if (which < 2) cp_async_4(&to[which][thread % ROWS], from, row < rows.count() ? 4 : 0);
}

template <int DIM, int M_TILES, int BN> __device__ __forceinline__ void attention_dkv(const AttentionParams& p) {
    constexpr int BM = ATTENTION_WARPS * M_TILES * 16, THREADS = ATTENTION_THREADS, STAGE = 2 * BN * DIM;
    __shared__ float statistics[2][2][BN];  // of each stage: lse and delta
    __shared__ Reach reach;
    DYNAMIC_SHARED(bf16, k);
    bf16 *v = k + BM * DIM, *ring = v + BM * DIM;
    // Earlier tokens are seen by more queries: the longest work first.
    const uint32_t head = blockIdx.x % p.key_value_heads, key0 = blockIdx.x / p.key_value_heads * BM;
    const QueryRows rows{p, head};
    const KeyRows keys{p, head};
    copy_rows<DIM, BM, THREADS>(k, keys, key0, p.k, p.v);
    const Reach seeing = rows_seeing(rows, key0, BM);
    uint32_t row = seeing.first;
    copy_rows<DIM, BN, THREADS>(ring, rows, row, p.q, p.d_o);
    copy_statistics(statistics[0], rows, row);
    cp_async_commit();
    if (threadIdx.x == 0) reach = seeing;

    float dk[M_TILES][DIM / 8][4] = {}, dv[M_TILES][DIM / 8][4] = {};
    do {
        cp_async_wait<0>();
        __syncthreads();  // this stage has arrived, and all have done with the other
        const uint32_t stage = (row - reach.first) / BN % 2;
        if (row + BN < reach.end) {
            copy_rows<DIM, BN, THREADS>(ring + (stage ^ 1) * STAGE, rows, row + BN, p.q, p.d_o);
            copy_statistics(statistics[stage ^ 1], rows, row + BN);
        }
        cp_async_commit();
        const bf16 *q = ring + stage * STAGE, *d_o = q + BN * DIM;
        const uint32_t key = warp_row<M_TILES>(), pair = fresh_thread() % 4 * 2;
        float s[M_TILES][BN / 8][4], ds[M_TILES][BN / 8][4];
        multiply_rows<DIM, M_TILES, BN>(s, k, key, q);
        to_weights(s, p.scale_log2, [&](int, int j, int e) { return statistics[stage][0][j * 8 + pair + e % 2] * LOG2_E; });
        if (!reach.all(row, BN)) Visible<M_TILES>::rows(rows, key0 + key).mask(s, row, 0.0f);
        add_product<DIM, M_TILES, BN>(dv, LeftSide<M_TILES, BN>(s), d_o);
        multiply_rows<DIM, M_TILES, BN>(ds, v, key, d_o);
        to_gradient(ds, s, [&](int, int j, int e) { return statistics[stage][1][j * 8 + pair + e % 2]; });
        add_product<DIM, M_TILES, BN>(dk, LeftSide<M_TILES, BN>(ds), q);
        row += BN;
    } while (row < reach.end);
    scale_all(dk, p.scale);
    const uint32_t key = warp_row<M_TILES>();
    store_rows<DIM, M_TILES>(dk, k, key, p.dk, keys, key0 + key);
    store_rows<DIM, M_TILES>(dv, v, key, p.dv, keys, key0 + key);
}

// src/ops/attention/cuda.rs knows the tiles' sizes.
KERNEL(attention_dq_128, AttentionParams, ATTENTION_THREADS, 2) { attention_dq<128, 2, 32>(p); }
KERNEL(attention_dq_64, AttentionParams, ATTENTION_THREADS, 2) { attention_dq<64, 2, 64>(p); }
KERNEL(attention_dq_short_128, AttentionParams, ATTENTION_THREADS, 3) { attention_dq<128, 1, 32>(p); }
KERNEL(attention_dq_short_64, AttentionParams, ATTENTION_THREADS, 4) { attention_dq<64, 1, 32>(p); }
KERNEL(attention_dkv_128, AttentionParams, ATTENTION_THREADS, 2) { attention_dkv<128, 1, 64>(p); }
KERNEL(attention_dkv_64, AttentionParams, ATTENTION_THREADS, 2) { attention_dkv<64, 2, 32>(p); }
