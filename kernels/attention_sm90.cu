// Causal attention, forward, on Hopper's tensor cores, for bf16 heads of 64 and 128 features, over the rows of
// tile/attention.cuh, after FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608). Two warpgroups (three for 64 features)
// hold the queries of 64 rows each; one warp of another only loads: the copy engine fills a ring of stages of K and of V.
//
// While the tensor cores multiply one tile's weights by V, and the next tile's keys by the queries, a warpgroup computes
// the softmax of what has come out, and the warpgroups drift apart so that one's softmax runs beside the other's
// products. As many blocks as multiprocessors take tile after tile: what a tile begins with is on its way while the one
// before it ends.
//
// Budget at 128 features: 64 registers a thread each for o and scores, 32 for weights, of 240; in KB of shared memory 32
// for queries, 128 for two stages of K and V, 32 for results. At 64: 32, 64 and 32 of 160; 24, 64 and 24.
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/attention.cuh"
#include "tile/operand.cuh"
#include "tile/products.cuh"
#include "tile/warpgroup_product.cuh"
#include "tile/softmax.cuh"

constexpr int BN = KIUNGO_ATTENTION_KEYS, STAGES = 2;

template <int DIM> struct Stages {
    static constexpr int WARPGROUPS = DIM == 64 ? 3 : 2, BM = WARPGROUPS * 64;
    static constexpr int CONSUMERS = WARPGROUPS * 128;  // threads; those from here on load
    static constexpr int REGISTERS = DIM == 64 ? 160 : 240, LOADER_REGISTERS = DIM == 64 ? 32 : 24;
    using Query = OperandTile<BM, true>;
    using Key = OperandTile<BN, true>;
    using Value = OperandTile<DIM, false>;
    static constexpr int PANELS = DIM / 64, KEYS = BN * DIM;  // elements of a stage

    bf16 *q, *k, *v;
    Barrier *full_k, *empty_k, *full_v, *empty_v;

    // One thread.
    __device__ __forceinline__ void init() const {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full_k[i], 1);
            barrier_init(&full_v[i], 1);
            barrier_init(&empty_k[i], CONSUMERS / 32);
            barrier_init(&empty_v[i], CONSUMERS / 32);
        }
    }

    // One thread: the tiles of keys first, first + BN, ... before `end`.
    __device__ __forceinline__ void load(Ring<STAGES>& at, const AttentionSm90Params& p, uint32_t head, const Reach& reach) const {
        for (uint32_t key = reach.first; key < reach.end; key += BN, at.advance()) {
            barrier_wait(&empty_k[at.stage], at.parity ^ 1);
            barrier_arrive_expecting(&full_k[at.stage], KEYS * sizeof(bf16));
#pragma unroll
            for (int panel = 0; panel < PANELS; panel++) {
                bf16* to = k + at.stage * KEYS + panel * Key::ELEMENTS;
                Key::template load<1>(to, &p.k, key, head * DIM + panel * 64, &full_k[at.stage], 0);
            }
            barrier_wait(&empty_v[at.stage], at.parity ^ 1);
            barrier_arrive_expecting(&full_v[at.stage], KEYS * sizeof(bf16));
#pragma unroll
            for (int part = 0; part < BN / 64; part++) {
                bf16* to = v + at.stage * KEYS + part * Value::ELEMENTS;
                Value::template load<1>(to, &p.v, head * DIM, key + part * 64, &full_v[at.stage], 0);
            }
        }
    }

    // Issues s = q k^T.
    __device__ __forceinline__ void scores(Part<BN>& s, const Ring<STAGES>& at) const {
        const int row = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) * 64;  // in a uniform register, as descriptors are
        barrier_wait(&full_k[at.stage], at.parity);
        wgmma_begin();
#pragma unroll
        for (int f = 0; f < DIM; f += 16) {
            const int panel = f / 64;
            wgmma<BN, true, true>(flat<BN>(s), Query::descriptor(q, row + panel * BM, f % 64),
                                  Key::descriptor(k + at.stage * KEYS, panel * BN, f % 64), f > 0);
        }
        wgmma_commit();
    }

    // Issues o += weights v.
    __device__ __forceinline__ void values(Part<DIM>& o, const LeftSide<1, BN>& weights, const Ring<STAGES>& at) const {
        barrier_wait(&full_v[at.stage], at.parity);
        wgmma_begin();
#pragma unroll
        for (int key = 0; key < BN; key += 16) {
            const bf16* part = v + at.stage * KEYS + key / 64 * Value::ELEMENTS;
            wgmma_registers<DIM, false>(flat<DIM>(o), weights.pairs[0][key / 16], Value::descriptor(part, 0, key % 64));
        }
        wgmma_commit();
    }

    static __device__ __forceinline__ void release(Barrier* empty, const Ring<STAGES>& at) {
        if (threadIdx.x % 32 == 0) barrier_arrive(&empty[at.stage]);
    }
};

// Tiles of BM rows of all key heads. Later tokens have more keys: the longest first.
template <int BM> struct Tiles {
    const AttentionParams& p;
    struct Tile {
        uint32_t head, row0;
    };

    __device__ __forceinline__ uint32_t count() const { return (p.tokens * p.group + BM - 1) / BM * p.key_value_heads; }
    __device__ __forceinline__ Tile at(uint32_t i) const {
        const uint32_t left = count() - 1 - i;
        return {left % p.key_value_heads, left / p.key_value_heads * BM};
    }
};

// The tiles that a block takes, one after the other, as the thread that loads tells the others.
template <int WARPS> struct Queue {
    uint32_t* tiles;  // [2]
    Barrier *full, *empty;
    Ring<2> at;

    // One thread, before others use it.
    __device__ __forceinline__ void init() const {
        for (int i = 0; i < 2; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], WARPS);
        }
    }
    __device__ __forceinline__ void put(uint32_t tile) {
        barrier_wait(&empty[at.stage], at.parity ^ 1);
        tiles[at.stage] = tile;
        barrier_arrive(&full[at.stage]);
        at.advance();
    }
    // All lanes of WARPS warps.
    __device__ __forceinline__ uint32_t take() {
        barrier_wait(&full[at.stage], at.parity);
        const uint32_t tile = tiles[at.stage];
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(&empty[at.stage]);
        at.advance();
        return tile;
    }
};

template <int DIM> __device__ __forceinline__ void attention_forward(const AttentionSm90Params& params) {
    const AttentionParams& p = params.attention;
    __shared__ Barrier barriers[4 * STAGES + 4];
    __shared__ uint32_t queued[2];
    DYNAMIC_SHARED(bf16, q);
    using All = Stages<DIM>;
    constexpr int BM = All::BM;
    bf16 *k = q + BM * DIM, *v = k + STAGES * All::KEYS, *results = v + STAGES * All::KEYS;
    const All stages{q, k, v, barriers, barriers + STAGES, barriers + 2 * STAGES, barriers + 3 * STAGES};
    const Tiles<BM> tiles{p};
    Queue<All::CONSUMERS / 32> queue{queued, barriers + 4 * STAGES, barriers + 4 * STAGES + 2, {}};
    if (threadIdx.x == 0) {
        stages.init();
        queue.init();
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= All::CONSUMERS) {
        fewer_registers<All::LOADER_REGISTERS>();
        if (threadIdx.x != All::CONSUMERS) return;
        Ring<STAGES> at;
        uint32_t* taken = reinterpret_cast<uint32_t*>(params.taken);
        uint32_t next = atomicAdd(taken, 1);
        for (uint32_t i = next; i < tiles.count(); i = next) {
            queue.put(i);
            next = atomicAdd(taken, 1);
            const auto [head, row0] = tiles.at(i);
            stages.load(at, params, head, keys_seen(QueryRows{p, head}, row0, BM));
        }
        queue.put(tiles.count());
        return;
    }
    more_registers<All::REGISTERS>();
    const uint32_t warpgroup = threadIdx.x / 128, warp = warp_row<1>();
    // This warpgroup's 64 of a tile's rows.
    const auto copy_queries = [&](uint32_t i) {
        const auto [head, row0] = tiles.at(i);
        const QueryRows rows{p, head};
#pragma unroll
        for (uint32_t panel = 0; panel < All::PANELS; panel++) {
            const Panel<QueryRows> part{rows, All::PANELS, panel};
            bf16* to = q + panel * BM * 64 + warpgroup * 64 * 64;
            copy_rows_by<64, 64, 128>(fresh_thread() % 128, to, part, row0 + warpgroup * 64, p.q);
        }
        cp_async_commit();
    };
    Ring<STAGES> at;
    uint32_t i = queue.take();
    if (i < tiles.count()) copy_queries(i);
    while (i < tiles.count()) {
        const auto [head, row0] = tiles.at(i);
        const QueryRows rows{p, head};
        const Reach reach = keys_seen(rows, row0, BM);
        cp_async_wait<0>();
        async_proxy_fence();  // tensor cores read what these threads wrote
        named_barrier(1 + warpgroup, 128);

        const uint32_t first = row0 + warp;
        OnlineSoftmax<1> softmax;
        float shrink[2];
        Part<BN> s;
        Part<DIM> o = {};
        const auto weigh = [&](uint32_t key) {
            if (!reach.all(key, BN)) Visible<1>::keys(rows, first).mask(s, key, -INFINITY);
#pragma unroll
            for (int row = 0; row < 2; row++) shrink[row] = softmax.weigh(row, s, p.scale_log2);
        };
        stages.scores(s, at);
        wgmma_wait<0>();
        keep(flat<BN>(s));
        All::release(stages.empty_k, at);
        weigh(reach.first);
        LeftSide<1, BN> weights(s);
        Ring<STAGES> before = at;
        at.advance();
        for (uint32_t key = reach.first + BN; key < reach.end; key += BN) {
            stages.scores(s, at);
            stages.values(o, weights, before);
            wgmma_wait<1>();
            keep(flat<BN>(s));
            All::release(stages.empty_k, at);
            weigh(key);
            wgmma_wait<0>();
            keep(flat<DIM>(o));
            All::release(stages.empty_v, before);
#pragma unroll
            for (int row = 0; row < 2; row++) softmax.scale_row(row, o, shrink[row]);
            weights = LeftSide<1, BN>(s);
            before = at;
            at.advance();
        }
        stages.values(o, weights, before);
        named_barrier(1 + warpgroup, 128);  // all products that read these queries are done: on to the next tile's
        i = queue.take();
        if (i < tiles.count()) copy_queries(i);
        wgmma_wait<0>();
        keep(flat<DIM>(o));
        All::release(stages.empty_v, before);

        finish(rows, first, softmax, o);
#pragma unroll
        for (uint32_t panel = 0; panel < All::PANELS; panel++) {
            float part[1][8][4];
#pragma unroll
            for (int i = 0; i < 32; i++) part[0][i / 4][i % 4] = o[0][panel * 8 + i / 4][i % 4];
            store_rows<64, 1>(part, results + panel * BM * 64, warp, p.o, Panel<QueryRows>{rows, All::PANELS, panel}, first);
        }
    }
}

KERNEL(attention_forward_sm90_128, AttentionSm90Params, Stages<128>::CONSUMERS + 128, 1) { attention_forward<128>(p); }
KERNEL(attention_forward_sm90_64, AttentionSm90Params, Stages<64>::CONSUMERS + 128, 1) { attention_forward<64>(p); }
