// Gradients of causal attention on Hopper's tensor cores, for bf16 heads of 64 and 128 features, in one pass of five
// products. With p = 2^(scale' s - lse') and ds = p (d_o v^T - delta): dv = p^T d_o, dk = scale ds^T q, dq = scale ds k.
//
// A block keeps 128 keys, and the queries of its heads that see them pass, a tile at a time. Four warpgroups:
//   two gradients of keys: each 64 keys, whose dk and dv stay in registers; the scores are computed as k q^T, so that p
//     and ds leave the tensor cores as the left sides of the next products, and ds goes to shared memory as well;
//   gradients of queries: ds k of each tile, to shared memory;
//   one warp loads keys and queries, and one adds dq to memory in the order of the blocks' keys (tile/ordered_sum.cuh).
// None of the four waits for another but for data, so one's arithmetic runs beside another's products.
//
// Budget: of 65536 registers 208 a thread for keys (64 each for dk and dv, 32 each for scores and d_o v^T), 72 for
// queries, 24 for the last two. Shared memory at 128 features, in KB: k and v 64, two stages of q and d_o 64, of ds 32,
// and three of half a tile of dq 48; the same at 64 features, where a tile has twice as many queries.
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/attention.cuh"
#include "tile/attention_gradient.cuh"
#include "tile/operand.cuh"
#include "tile/ordered_sum.cuh"
#include "tile/products.cuh"
#include "tile/warpgroup_product.cuh"

constexpr int KEYS = KIUNGO_ATTENTION_KEYS, TILE = KIUNGO_ATTENTION_PASSING;
constexpr int LOAD_STAGES = 2, DS_STAGES = 2, DQ_STAGES = 3;
constexpr int THREADS = 4 * 128;
constexpr int KEY_REGISTERS = 208, QUERY_REGISTERS = 64, OTHER_REGISTERS = 32;

template <int DIM> struct Block {
    static constexpr int QUERIES = TILE / DIM, PANELS = DIM / 64;
    using Own = OperandTile<KEYS, true>;
    using Passing = OperandTile<QUERIES, true>;
    using Columns = OperandTile<DIM, false>;
    static constexpr int DS = KEYS * QUERIES;
    static constexpr uint32_t SHARED = 2 * (2 * KEYS * DIM + LOAD_STAGES * 2 * TILE + DS_STAGES * DS) +
                                       4 * (DQ_STAGES * HALF_TILE + LOAD_STAGES * 2 * QUERIES);

    bf16 *k, *v, *q, *d_o, *ds;
    float *dq, *statistics;
    Barrier *own, *full_q, *full_d_o, *empty, *full_ds, *empty_ds, *full_dq, *empty_dq;
    static constexpr int BARRIERS = 1 + 3 * LOAD_STAGES + 2 * DS_STAGES + 2 * DQ_STAGES;

    __device__ __forceinline__ Block(bf16* shared, Barrier* barriers) {
        k = shared, v = k + KEYS * DIM, q = v + KEYS * DIM, d_o = q + LOAD_STAGES * TILE, ds = d_o + LOAD_STAGES * TILE;
        dq = reinterpret_cast<float*>(ds + DS_STAGES * DS), statistics = dq + DQ_STAGES * HALF_TILE;
        own = barriers, full_q = own + 1, full_d_o = full_q + LOAD_STAGES, empty = full_d_o + LOAD_STAGES;
        full_ds = empty + LOAD_STAGES, empty_ds = full_ds + DS_STAGES;
        full_dq = empty_ds + DS_STAGES, empty_dq = full_dq + DQ_STAGES;
    }

    // One thread.
    __device__ __forceinline__ void init() const {
        barrier_init(own, 1);
        for (int i = 0; i < LOAD_STAGES; i++) barrier_init(&full_q[i], 1), barrier_init(&full_d_o[i], 1), barrier_init(&empty[i], 8);
        for (int i = 0; i < DS_STAGES; i++) barrier_init(&full_ds[i], 8), barrier_init(&empty_ds[i], 4);
        for (int i = 0; i < DQ_STAGES; i++) barrier_init(&full_dq[i], 4), barrier_init(&empty_dq[i], 1);
        barrier_init_fence();
    }
};

static __device__ __forceinline__ void arrive_warp(Barrier* barrier) {
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// The tiles of queries that pass a block's keys: from the last one down, and of each all heads of the group.
struct Passage {
    uint32_t head;  // the first of the group
    uint32_t first, last, group;

    __device__ __forceinline__ uint32_t count() const { return (last - first + 1) * group; }

    // body(tile, query head, how many follow)
    template <class Body> __device__ __forceinline__ void each(Body body) const {
        uint32_t tile = last, i = 0;
        for (uint32_t left = count(); left-- > 0;) {
            body(tile, head + i, left);
            if (++i == group) i = 0, tile--;
        }
    }
};

// One thread: loads the keys, then what passes.
template <int DIM>
__device__ __forceinline__ void load_all(const AttentionBackwardSm90Params& p, const Block<DIM>& block, const Passage& passage,
                                         uint32_t head, uint32_t key0) {
    using B = Block<DIM>;
    const auto panels = [](auto tile, bf16* to, const TensorMap* map, uint32_t row, uint32_t head, Barrier* barrier) {
        using Tile = decltype(tile);
#pragma unroll
        for (int panel = 0; panel < B::PANELS; panel++) {
            Tile::template load<1>(to + panel * Tile::ELEMENTS, map, row, head * DIM + panel * 64, barrier, 0);
        }
    };
    barrier_arrive_expecting(block.own, 2 * KEYS * DIM * sizeof(bf16));
    panels(typename B::Own(), block.k, &p.k, key0, head, block.own);
    panels(typename B::Own(), block.v, &p.v, key0, head, block.own);
    Ring<LOAD_STAGES> at;
    passage.each([&](uint32_t tile, uint32_t query_head, uint32_t) {
        constexpr uint32_t STATISTICS = 2 * B::QUERIES;
        Barrier *q = &block.full_q[at.stage], *d_o = &block.full_d_o[at.stage];
        barrier_wait(&block.empty[at.stage], at.parity ^ 1);
        barrier_arrive_expecting(q, TILE * sizeof(bf16) + STATISTICS * sizeof(float));
        panels(typename B::Passing(), block.q + at.stage * TILE, &p.q, tile * B::QUERIES, query_head, q);
        const float* from = reinterpret_cast<const float*>(p.statistics) + ((size_t)query_head * p.tiles + tile) * STATISTICS;
        bulk_load(block.statistics + at.stage * STATISTICS, from, STATISTICS * sizeof(float), q);
        barrier_arrive_expecting(d_o, TILE * sizeof(bf16));
        panels(typename B::Passing(), block.d_o + at.stage * TILE, &p.d_o, tile * B::QUERIES, query_head, d_o);
        at.advance();
    });
}

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

// The warpgroup of queries: dq of each tile, in halves of 64 x 64: of its features, or of its queries.
template <int DIM> __device__ __forceinline__ void query_gradients(const Block<DIM>& block, const Passage& passage) {
    using B = Block<DIM>;
    using Square = OperandTile<64, false>;
    Ring<DS_STAGES> from;
    Ring<DQ_STAGES> to;
    barrier_wait(block.own, 0);
    passage.each([&](uint32_t, uint32_t, uint32_t) {
        barrier_wait(&block.full_ds[from.stage], from.parity);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const bf16* ds = block.ds + from.stage * B::DS + (DIM == 64) * half * KEYS * 64;
            const bf16* k = block.k + (DIM == 128) * half * KEYS * 64;
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
            barrier_wait(&block.empty_dq[to.stage], to.parity ^ 1);
            put_half_tile(sum, block.dq + to.stage * HALF_TILE, warp_row<1>() % 64);
            async_proxy_fence();
            __syncwarp();
            arrive_warp(&block.full_dq[to.stage]);
            to.advance();
        }
        from.advance();
    });
}

// One thread: adds each tile of dq to what the blocks of earlier keys have left.
template <int DIM>
__device__ __forceinline__ void add_all(const AttentionBackwardSm90Params& p, const Block<DIM>& block, const Passage& passage,
                                        uint32_t key0) {
    using B = Block<DIM>;
    OrderedSum<DQ_STAGES> sum{p, block.dq, block.full_dq, block.empty_dq};
    passage.each([&](uint32_t tile, uint32_t query_head, uint32_t) {
        const uint32_t first = sequence_start(p.attention, tile * B::QUERIES) / KEYS;
        sum.add(query_head * p.tiles + tile, key0 / KEYS - first);
    });
    sum.finish();
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
        query_gradients<DIM>(block, passage);
    } else {
        fewer_registers<OTHER_REGISTERS>();
        if (threadIdx.x == 3 * 128) load_all<DIM>(params, block, passage, head, key0);
        if (threadIdx.x == 3 * 128 + 32) add_all<DIM>(params, block, passage, key0);
    }
}

KERNEL(attention_backward_sm90_128, AttentionBackwardSm90Params, THREADS, 1) { attention_backward<128>(p); }
KERNEL(attention_backward_sm90_64, AttentionBackwardSm90Params, THREADS, 1) { attention_backward<64>(p); }
