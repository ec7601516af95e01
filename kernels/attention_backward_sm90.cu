// Gradients of causal attention on Hopper's tensor cores, for bf16 heads of 64 and 128 features, in one pass of five
// products. With p = 2^(scale' s - lse') and ds = p (d_o v^T - delta): dv = p^T d_o, dk = scale ds^T q, dq = scale ds k.
//
// A block keeps 128 keys, and the queries of its heads that see them pass, a tile at a time. Four warpgroups:
//   two gradients of keys: each 64 keys, whose dk and dv stay in registers; the scores are computed as k q^T, so that p
//     and ds leave the tensor cores as the left sides of the next products, and ds goes to shared memory as well;
//   gradients of queries: ds k of each tile, to shared memory;
//   one warp loads keys and queries, and two add dq to memory in the order of the blocks' keys (tile/ordered_sum.cuh).
// None of the four waits for another but for data, so one's arithmetic runs beside another's products.
//
// Budget: of 65536 registers 208 a thread for keys (64 each for dk and dv, 32 for scores and then for d_o v^T, 16 each for
// p and ds), 64 for queries, 32 for the others. Shared memory at 128 features, in KB: k and v 64, two stages of q and d_o
// 64, of ds 32 and of dq 64; the same at 64 features, where a tile has twice as many queries.
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/attention.cuh"
#include "tile/attention_gradient.cuh"
#include "tile/gradient_block.cuh"
#include "tile/operand.cuh"
#include "tile/ordered_sum.cuh"
#include "tile/products.cuh"
#include "tile/warpgroup_product.cuh"

constexpr int THREADS = 4 * 128;
constexpr int KEY_REGISTERS = 208, QUERY_REGISTERS = 64, OTHER_REGISTERS = 32;

// A warpgroup of keys, which begin at `key`.
template <int DIM>
__device__ __forceinline__ void key_gradients(const AttentionBackwardSm90Params& params, const Block<DIM>& block,
                                              const Passage& passage, uint32_t head, uint32_t key) {
    using B = Block<DIM>;
    constexpr int QUERIES = B::QUERIES;
    const AttentionParams& p = params.attention;
    // In a uniform register, as all of a warpgroup's descriptors.
    const int line = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) * 64;
    // Issues c = own passing^T.
    const auto multiply = [&](Part<QUERIES>& c, const bf16* own, const bf16* passing) {
        wgmma_begin();
#pragma unroll
        for (int f = 0; f < DIM; f += 16) {
            const int panel = f / 64;
            wgmma<QUERIES, true, true>(flat<QUERIES>(c), B::Own::descriptor(own, line + panel * KEYS, f % 64),
                                       B::Passing::descriptor(passing, panel * QUERIES, f % 64), f > 0);
        }
        wgmma_commit();
    };
    // Issues c += left passing.
    const auto add = [&](Part<DIM>& c, const LeftSide<1, QUERIES>& left, const bf16* passing) {
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < QUERIES; i += 16) {
            wgmma_registers<DIM, false>(flat<DIM>(c), left.pairs[0][i / 16], B::Columns::descriptor(passing, 0, i));
        }
        wgmma_commit();
    };

    const uint32_t last = min(key + 63, p.tokens - 1);
    const uint32_t all_end = key + 63 < p.tokens ? sequence_end(p, key) : 0;  // of the queries that see all keys
    Part<DIM> dk = {}, dv = {};
    Ring<LOAD_STAGES> at;
    Ring<DS_STAGES> to;
    barrier_wait(block.own, 0);
    passage.each([&](uint32_t tile, uint32_t, uint32_t) {
        const bf16 *q = block.q + at.stage * TILE, *d_o = block.d_o + at.stage * TILE;
        const float* statistics = block.statistics + at.stage * 2 * QUERIES;
        Part<QUERIES> s;
        barrier_wait(&block.full_q[at.stage], at.parity);
        multiply(s, block.k, q);
        wgmma_wait<0>();
        keep(flat<QUERIES>(s));
        weigh_columns(s, p.scale_log2, statistics);
        const uint32_t query = tile * QUERIES;
        if (query < last || query + QUERIES > all_end) Visible<1>::tokens(p, key + warp_row<1>() % 64).mask(s, query, 0.0f);
        const LeftSide<1, QUERIES> weights(s);
        barrier_wait(&block.full_d_o[at.stage], at.parity);
        multiply(s, block.v, d_o);
        add(dv, weights, d_o);
        wgmma_wait<1>();
        keep(flat<QUERIES>(s));
        gradient_columns(s, weights, statistics + QUERIES);
        const LeftSide<1, QUERIES> ds(s);
        add(dk, ds, q);
        barrier_wait(&block.empty_ds[to.stage], to.parity ^ 1);
        put_lines<KEYS>(ds, block.ds + to.stage * B::DS, line + warp_row<1>() % 64);
        async_proxy_fence();
        __syncwarp();
        arrive_warp(&block.full_ds[to.stage]);
        wgmma_wait<0>();
        arrive_warp(&block.empty[at.stage]);
        to.advance();
        at.advance();
    });
    keep(flat<DIM>(dk));
    keep(flat<DIM>(dv));

    scale_all(dk, p.scale);
    // Through this warp's own lines of v, which are not needed any more.
    const uint32_t mine = warp_row<1>();
    const auto store = [&](const Part<DIM>& sum, uint64_t matrix) {
#pragma unroll
        for (uint32_t panel = 0; panel < B::PANELS; panel++) {
            float part[1][8][4];
#pragma unroll
            for (int i = 0; i < 32; i++) part[0][i / 4][i % 4] = sum[0][panel * 8 + i / 4][i % 4];
            const KeyRows rows{p, head};
            store_rows<64, 1>(part, block.v + panel * B::Own::ELEMENTS, mine, matrix, Panel<KeyRows>{rows, B::PANELS, panel},
                              key + mine % 64);
        }
    };
    store(dv, p.dv);
    store(dk, p.dk);
}

// Where a tile of dq is summed up, and as the how-many-eth block this one adds to it.
template <int DIM> struct Sum {
    float* tile;
    Turns turns;
    uint32_t turn;

    __device__ __forceinline__ Sum(const AttentionBackwardSm90Params& p, uint32_t tile, uint32_t query_head, uint32_t key0)
        : tile(reinterpret_cast<float*>(p.sums) + ((size_t)query_head * p.tiles + tile) * SUM_TILE),
          turns{reinterpret_cast<uint32_t*>(p.turns) + query_head * p.tiles + tile},
          turn(key0 / KEYS - sequence_start(p.attention, tile * Block<DIM>::QUERIES) / KEYS) {}
};

// The warpgroup of queries: dq of each tile, in halves of 64 x 64: of its features, or of its queries. Those that no block
// of later keys adds to are done; the others go on to be added up.
template <int DIM>
__device__ __forceinline__ void query_gradients(const AttentionBackwardSm90Params& p, const Block<DIM>& block,
                                                const Passage& passage, uint32_t key0) {
    using B = Block<DIM>;
    using Square = OperandTile<64, false>;
    const uint32_t line = warp_row<1>() % 64;
    Ring<DS_STAGES> from;
    Ring<DQ_STAGES> to;
    barrier_wait(block.own, 0);
    passage.each([&](uint32_t tile, uint32_t query_head, uint32_t) {
        const bool last = tile * B::QUERIES < key0 + KEYS;
        barrier_wait(&block.full_ds[from.stage], from.parity);
        barrier_wait(&block.empty_dq[to.stage], to.parity ^ 1);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const bf16* ds = block.ds + from.stage * B::DS + (DIM == 64) * half * KEYS * 64;
            const bf16* k = block.k + (DIM == 128) * half * KEYS * 64;
            float* dq = block.dq + to.stage * TILE + half * HALF_TILE;
            Part<64> sum;
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < KEYS; i += 16) {
                wgmma<64, false, false>(flat<64>(sum), Square::descriptor(ds, 0, i), Square::descriptor(k, 0, i), i > 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            keep(flat<64>(sum));
            if (half == 1) arrive_warp(&block.empty_ds[from.stage]);
            if (last) {
                const Sum<DIM> before(p, tile, query_head, key0);
                if (half == 0) {
                    if (threadIdx.x % 128 == 0) before.turns.wait_for(before.turn);
                    named_barrier(3, 128);
                }
                if (before.turn > 0) add_half_tile(sum, before.tile + half * HALF_TILE, line);
                scale_all(sum, p.attention.scale);
                const TokenRows rows{p.attention, query_head};
                store_rows<64, 1>(sum, reinterpret_cast<bf16*>(dq), line, p.attention.dq,
                                  Panel<TokenRows>{rows, B::PANELS, (DIM == 128) * (uint32_t)half},
                                  tile * B::QUERIES + (DIM == 64) * half * 64 + line);
            } else {
                put_half_tile(sum, dq, line);
            }
        }
        if (!last) {
            async_proxy_fence();
            __syncwarp();
            arrive_warp(&block.full_dq[to.stage]);
            to.advance();
        }
        from.advance();
    });
}

// One thread for each of the ring's tiles of dq: adds every DQ_STAGES-th that passes to what the blocks of earlier keys
// have left, so that one waits for its turn while another's addition is under way.
template <int DIM>
__device__ __forceinline__ void add_all(const AttentionBackwardSm90Params& p, const Block<DIM>& block, const Passage& passage,
                                        uint32_t key0, uint32_t mine) {
    uint32_t stage = 0, parity = 0;
    passage.each([&](uint32_t tile, uint32_t query_head, uint32_t) {
        if (tile * Block<DIM>::QUERIES < key0 + KEYS) return;  // done in query_gradients
        if (stage == mine) {
            const Sum<DIM> sum(p, tile, query_head, key0);
            barrier_wait(&block.full_dq[mine], parity);
            add_in_turn(sum.tile, block.dq + mine * TILE, sum.turns, sum.turn, &block.empty_dq[mine]);
            parity ^= 1;
        }
        stage = (stage + 1) % DQ_STAGES;
    });
}

template <int DIM> __device__ __forceinline__ void attention_backward(const AttentionBackwardSm90Params& params) {
    const AttentionParams& p = params.attention;
    using B = Block<DIM>;
    __shared__ Barrier barriers[B::BARRIERS];
    __shared__ uint32_t ticket;
    DYNAMIC_SHARED(bf16, shared);
    const B block(shared, barriers);
    // A block waits for those with earlier keys: it must not begin before them.
    if (threadIdx.x == 0) {
        ticket = atomicAdd(reinterpret_cast<uint32_t*>(params.turns) + p.query_heads * params.tiles, 1);
        block.init();
    }
    __syncthreads();
    const uint32_t head = ticket % p.key_value_heads, key0 = ticket / p.key_value_heads * KEYS;
    const uint32_t end = sequence_end(p, min(key0 + KEYS, p.tokens) - 1);
    const Passage passage{head * p.group, key0 / B::QUERIES, (end - 1) / B::QUERIES, p.group};
    const uint32_t warpgroup = threadIdx.x / 128;
    if (warpgroup < 2) {
        more_registers<KEY_REGISTERS>();
        key_gradients<DIM>(params, block, passage, head, key0 + warpgroup * 64);
    } else if (warpgroup == 2) {
        fewer_registers<QUERY_REGISTERS>();
        query_gradients<DIM>(params, block, passage, key0);
    } else {
        fewer_registers<OTHER_REGISTERS>();
        if (threadIdx.x == 3 * 128) load_all<DIM>(params, block, passage, head, key0);
        const uint32_t warp = threadIdx.x / 32 % 4;
        if (threadIdx.x % 32 == 0 && warp >= 1 && warp <= DQ_STAGES) add_all<DIM>(params, block, passage, key0, warp - 1);
    }
}

KERNEL(attention_backward_sm90_128, AttentionBackwardSm90Params, THREADS, 1) { attention_backward<128>(p); }
KERNEL(attention_backward_sm90_64, AttentionBackwardSm90Params, THREADS, 1) { attention_backward<64>(p); }
