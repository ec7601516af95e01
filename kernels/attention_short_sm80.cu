// Gradients of causal attention over short sequences, on the tensor cores of sm_80, for bf16 heads of 64 and 128 features:
// all of dq, dk and dv in one pass over memory, where attention_backward_sm80.cu takes two.
//
// A block holds whole sequences of one key head, KEYS tokens of them at most: all that begin at one of its `step` tokens,
// where KEYS >= step - 1 + the longest sequence's tokens. It passes over their queries, BM rows at a time: each warp
// computes the scores of 16 rows with all the keys, and dq of them; the weights and the gradients of the scores go through
// shared memory, from which each warp adds up its quarter of the columns of dk and dv.
//
// Budget at 128 features and 32 keys: 64 registers a thread for dk and dv, 64 for dq, 16 each for scores and d_o v^T; 64 KB
// of shared memory, three blocks a multiprocessor. With 48 keys 96 for dk and dv, 72 KB, two blocks.
#include "kernel.cuh"
#include "tile/attention.cuh"
#include "tile/attention_gradient.cuh"
#include "tile/products.cuh"

// Rows of which those from `end` on are another block's.
template <class All> struct Until {
    All all;
    uint32_t end;
    __device__ __forceinline__ uint32_t count() const { return end; }
    __device__ __forceinline__ uint32_t at(uint32_t row) const { return all.at(row); }
};

// The first token from `token` on with which a sequence begins, or the end.
__device__ __forceinline__ uint32_t next_start(const AttentionParams& p, uint32_t token) {
    if (token >= p.tokens) return p.tokens;
    return sequence_start(p, token) == token ? token : sequence_end(p, token);
}

template <int DIM, int KEYS> __device__ __forceinline__ void attention_backward_short(const AttentionParams& p) {
    constexpr int BM = ATTENTION_WARPS * 16, THREADS = ATTENTION_THREADS, SLICE = DIM / ATTENTION_WARPS, SIDE = 64;
    __shared__ float lse[BM], delta[BM];
    DYNAMIC_SHARED(bf16, k);
    bf16 *v = k + KEYS * DIM, *q = v + KEYS * DIM, *d_o = q + BM * DIM, *weights = d_o + BM * DIM;
    bf16* gradients = weights + BM * SIDE;
    const uint32_t tiles = gridDim.x / p.key_value_heads, step = (p.tokens + tiles - 1) / tiles;
    const uint32_t head = blockIdx.x % p.key_value_heads, tile = blockIdx.x / p.key_value_heads;
    const uint32_t first = next_start(p, tile * step), end = next_start(p, (tile + 1) * step);
    if (first == end) return;  // a sequence that began before goes on beyond
    const QueryRows rows{p, head};
    const Until<QueryRows> block_rows{rows, end * p.group};
    const Until<KeyRows> keys{{p, head}, end};
    copy_rows<DIM, KEYS, THREADS>(k, keys, first, p.k, p.v);

        float dk[KEYS / 16][SLICE / 8][4] = {}, dv[KEYS / 16][SLICE / 8][4] = {};
    for (uint32_t row = first * p.group; row < block_rows.end; row += BM) {
        copy_rows<DIM, BM, THREADS>(q, block_rows, row, p.q, p.d_o);
        cp_async_commit();
        const uint32_t warp = warp_row<1>(), slice = fresh_thread() / 32 * SLICE;
        prepare_rows<DIM, 16>(p, block_rows, row + warp, lse + warp, delta + warp);
        cp_async_wait<0>();
        __syncthreads();  // all has arrived
        const uint32_t line = warp + fresh_thread() % 32 / 4;
        float s[1][KEYS / 8][4], ds[1][KEYS / 8][4];
        multiply_rows<DIM, 1, KEYS>(s, q, warp, k);
        to_weights(s, p.scale_log2, [&](int, int, int e) { return lse[line + e / 2 * 8]; });
        Visible<1>::keys(rows, row + warp).mask(s, first, 0.0f);
        put<SIDE, 1>(s, weights, warp, 0);
        multiply_rows<DIM, 1, KEYS>(ds, d_o, warp, v);
        to_gradient(ds, s, [&](int, int, int e) { return delta[line + e / 2 * 8]; });
        put<SIDE, 1>(ds, gradients, warp, 0);
        const LeftSide<1, KEYS> left(ds);
        __syncthreads();  // all rows' weights and gradients are there
        add_columns<SIDE, DIM, BM>(dv, weights, d_o, slice);
        add_columns<SIDE, DIM, BM>(dk, gradients, q, slice);
        __syncthreads();  // all have done with q, through which dq passes
        float dq[1][DIM / 8][4] = {};
        add_product<DIM, 1, KEYS>(dq, left, k);
        scale_all(dq, p.scale);
        store_rows<DIM, 1>(dq, q, warp, p.dq, block_rows, row + warp);
        __syncthreads();  // all have done with q and k
    }
    scale_all(dk, p.scale);
    const uint32_t slice = fresh_thread() / 32 * SLICE;
    put<DIM, KEYS / 16>(dk, k, 0, slice);
    put<DIM, KEYS / 16>(dv, v, 0, slice);
    __syncthreads();
    store_tile<DIM, KEYS, THREADS>(k, p.dk, keys, first, threadIdx.x);
    store_tile<DIM, KEYS, THREADS>(v, p.dv, keys, first, threadIdx.x);
}

// For sequences of up to 16 and up to 32 tokens: src/ops/attention/cuda.rs.
KERNEL(attention_backward_16_128, AttentionParams, ATTENTION_THREADS, 3) { attention_backward_short<128, 32>(p); }
KERNEL(attention_backward_16_64, AttentionParams, ATTENTION_THREADS, 4) { attention_backward_short<64, 32>(p); }
KERNEL(attention_backward_32_128, AttentionParams, ATTENTION_THREADS, 2) { attention_backward_short<128, 48>(p); }
KERNEL(attention_backward_32_64, AttentionParams, ATTENTION_THREADS, 3) { attention_backward_short<64, 48>(p); }
