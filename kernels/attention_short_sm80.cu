// Gradients of causal attention over short sequences, on the tensor cores of sm_80, for bf16 heads of 64 and 128 features:
// all of dq, dk and dv in one pass over memory, where attention_backward_sm80.cu takes two.
//
// A block has WARPS warps and takes the sequences of one key head that begin in its share of the tokens, whole ones of up to
// 16 * WARPS tokens at a time. Each warp keeps 16 keys, and the gradients of those in registers; the queries of all heads of
// the group pass by, 16 rows at a time, through a ring of stages. Scores are computed as k q^T: the weights and the gradients of the scores leave the tensor cores
// as the left sides of p^T d_o and ds^T q. Only ds k needs the gradients of all keys, which meet in shared memory.
//
// What limits it is memory, so what counts are bytes under way: no registers hold them, no warp waits for more than one other.
// Budget at 128 features: 128 registers a thread for dk and dv, 32 for dq; 45 KB of shared memory for one warp and 54 KB for two,
// four blocks a multiprocessor, each with two stages of 12 KB under way.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/math.cuh"
#include "tile/attention.cuh"
#include "tile/attention_gradient.cuh"
#include "tile/fragment.cuh"
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

constexpr int ROWS = 16, STAGES = 3, SLICE = 64;

// Rows of queries on their way.
template <int DIM> struct Stage {
    bf16 q[ROWS * DIM], d_o[ROWS * DIM], o[ROWS * DIM];
    float lse[ROWS];
    uint32_t position[ROWS];
};

template <int DIM, int WARPS> struct Shared {
    static constexpr int KEYS = WARPS * 16;
    bf16 k[KEYS * DIM], v[KEYS * DIM];
    Stage<DIM> stages[STAGES];
    bf16 gradients[KEYS * ROWS];
};

// Starts copying rows row, row + 1, ... of what the gradients of queries are made from.
template <int DIM, int THREADS>
__device__ __forceinline__ void fetch(const AttentionParams& p, Stage<DIM>& stage, const Until<QueryRows>& rows, uint32_t row) {
    copy_rows<DIM, ROWS, THREADS>(stage.q, rows, row, p.q, p.d_o, p.o);
    const uint32_t line = fresh_thread(), valid = row + line < rows.end ? 4 : 0;
    if (line >= ROWS) return;
    cp_async_4(stage.lse + line, reinterpret_cast<const float*>(p.lse) + rows.at(row + line), valid);
    cp_async_4(stage.position + line, reinterpret_cast<const uint32_t*>(p.positions) + rows.all.token(row + line), valid);
}

// A row's delta = d_o . o for the columns 2t, 2t + 1, and those 8 further, of this lane's part of a product: the diagonal of
// o d_o^T.
template <int DIM> __device__ __forceinline__ void column_deltas(float (&delta)[2][2], const Stage<DIM>& stage) {
    float products[1][2][4];
    multiply_rows<DIM, 1, ROWS>(products, stage.o, 0, stage.d_o);
    const uint32_t even = fresh_thread() % 4 * 9, odd = even + 4;  // lanes whose row is such a column
    delta[0][0] = __shfl_sync(0xffffffffu, products[0][0][0], even);
    delta[0][1] = __shfl_sync(0xffffffffu, products[0][0][1], odd);
    delta[1][0] = __shfl_sync(0xffffffffu, products[0][1][2], even);
    delta[1][1] = __shfl_sync(0xffffffffu, products[0][1][3], odd);
}

// The weights p^T of a warp's keys, from `key` on, in the place of the scores: columns are the rows of a stage.
template <int DIM>
__device__ __forceinline__ void to_column_weights(float (&s)[1][2][4], const AttentionParams& p, const Stage<DIM>& stage,
                                                  const QueryRows& rows, uint32_t row, uint32_t key) {
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t column = j / 2 * 8 + lane % 4 * 2 + j % 2, position = stage.position[column];
        const uint32_t start = rows.token(row + column) - position;
        const float lse = stage.lse[column] * LOG2_E;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float& value = s[0][j / 2][half * 2 + j % 2];
            const bool seen = key + lane / 4 + half * 8 - start <= position;  // not by rows before it, nor of other sequences
            value = seen ? exp2_approx(fmaf(value, p.scale_log2, -lse)) : 0.0f;
        }
    }
}

template <int DIM, int WARPS> __device__ __forceinline__ void attention_backward_short(const AttentionParams& p) {
    using Tile = SwizzledTile<ROWS / 8>;
    constexpr int THREADS = WARPS * 32, KEYS = WARPS * 16;
    DYNAMIC_SHARED(unsigned char, memory);
    Shared<DIM, WARPS>& shared = *reinterpret_cast<Shared<DIM, WARPS>*>(memory);
    const uint32_t head = blockIdx.x % p.key_value_heads, tile = blockIdx.x / p.key_value_heads;
    const uint32_t warp = fresh_thread() / 32, mine = warp * 16;
    const uint32_t tiles = gridDim.x / p.key_value_heads, span = (p.tokens + tiles - 1) / tiles;  // tokens a block
    const uint32_t end = next_start(p, (tile + 1) * span);
    const QueryRows rows{p, head};

    uint32_t until;
    for (uint32_t begin = next_start(p, tile * span); begin < end; begin = until) {
        until = begin + KEYS < end ? sequence_start(p, begin + KEYS) : end;
        const Until<QueryRows> queries{rows, until * p.group};
        const Until<KeyRows> keys{{p, head}, until};
        uint32_t row = begin * p.group;
        copy_rows<DIM, KEYS, THREADS>(shared.k, keys, begin, p.k, p.v);
        // Only what is waited for below: the next sequences' copies go to the same stages.
        for (int s = 0; s < STAGES - 1; s++) {
            const uint32_t next = row + s * ROWS;
            if (next < queries.end) fetch<DIM, THREADS>(p, shared.stages[s], queries, next);
            cp_async_commit();
        }
        float dk[1][DIM / 8][4] = {}, dv[1][DIM / 8][4] = {};
        for (uint32_t at = 0; row < queries.end; row += ROWS, at = at + 1 < STAGES ? at + 1 : 0) {
            Stage<DIM>& stage = shared.stages[at];
            cp_async_wait<STAGES - 2>();
            __syncthreads();  // these rows have arrived, and all have done with those before
            const uint32_t next = row + (STAGES - 1) * ROWS;
            if (next < queries.end) fetch<DIM, THREADS>(p, shared.stages[at ? at - 1 : STAGES - 1], queries, next);
            cp_async_commit();

            float s[1][2][4], ds[1][2][4], delta[2][2];
            multiply_rows<DIM, 1, ROWS>(s, shared.k, mine, stage.q);
            multiply_rows<DIM, 1, ROWS>(ds, shared.v, mine, stage.d_o);
            column_deltas(delta, stage);
            to_column_weights(s, p, stage, rows, row, begin + mine);
            to_gradient(ds, s, [&](int, int j, int e) { return delta[j][e % 2]; });
            const LeftSide<1, ROWS> weights(s), gradients(ds);
            const uint32_t lane = fresh_thread() % 32;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                bf16* to = shared.gradients + Tile::offset(mine + lane / 4 + i % 2 * 8, i / 2) + lane % 4 * 2;
                *reinterpret_cast<uint32_t*>(to) = gradients.pairs[0][0][i];
            }
            add_product<DIM, 1, ROWS>(dv, weights, stage.d_o);
            add_product<DIM, 1, ROWS>(dk, gradients, stage.q);
            __syncthreads();  // all keys' gradients are there, and all have done with o, through which dq passes
            for (uint32_t column = warp * SLICE; column < DIM; column += WARPS * SLICE) {
                float dq[1][SLICE / 8][4] = {};
#pragma unroll
                for (int key = 0; key < KEYS; key += 16) {
                    uint32_t left[4];
                    fragment_a<Tile, false>(left, shared.gradients, 0, key);
#pragma unroll
                    for (int j = 0; j < SLICE / 16; j++) {
                        uint32_t right[4];
                        FragmentTile<DIM>::load_b_trans(right, shared.k, key, column + j * 16, lane);
                        multiply_pair(dq[0][2 * j], dq[0][2 * j + 1], left, right);
                    }
                }
                scale_all(dq, p.scale);
                bf16* slice = stage.o + column * ROWS;
                put<SLICE, 1>(dq, slice, 0, 0);
                __syncwarp();
                store_tile<SLICE, ROWS, 32, DIM>(slice, p.dq + column * sizeof(bf16), queries, row, lane);
            }
        }
        scale_all(dk, p.scale);
        __syncthreads();  // all have done with k
        store_rows<DIM, 1>(dk, shared.k, mine, p.dk, keys, begin + mine);
        store_rows<DIM, 1>(dv, shared.v, mine, p.dv, keys, begin + mine);
        __syncthreads();  // before others are loaded
    }
}

// For sequences of up to 16 and up to 32 tokens: src/ops/attention/cuda.rs.
KERNEL(attention_backward_16_128, AttentionParams, 32, 4) {
    let_next_in(4);
    attention_backward_short<128, 1>(p);
}
KERNEL(attention_backward_16_64, AttentionParams, 32, 8) {
    let_next_in(8);
    attention_backward_short<64, 1>(p);
}
KERNEL(attention_backward_32_128, AttentionParams, 64, 4) {
    let_next_in(4);
    attention_backward_short<128, 2>(p);
}
KERNEL(attention_backward_32_64, AttentionParams, 64, 6) {
    let_next_in(6);
    attention_backward_short<64, 2>(p);
}
