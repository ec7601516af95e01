// What a block of attention_backward_sm90.cu has in shared memory, and how keys and queries come there.
#pragma once
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "tile/operand.cuh"

constexpr int KEYS = KIUNGO_ATTENTION_KEYS, TILE = KIUNGO_ATTENTION_PASSING;
constexpr int LOAD_STAGES = 2, DS_STAGES = 2, DQ_STAGES = 2;

template <int DIM> struct Block {
    static constexpr int QUERIES = TILE / DIM, PANELS = DIM / 64;
    using Own = OperandTile<KEYS, true>;
    using Passing = OperandTile<QUERIES, true>;
    using Columns = OperandTile<DIM, false>;
    static constexpr int DS = KEYS * QUERIES;

    // k, v, and rings of q, d_o and ds; then of floats dq, and of each stage of queries lse times log2 e, and delta.
    bf16 *k, *v, *q, *d_o, *ds;
    float *dq, *statistics;
    Barrier *own, *full_q, *full_d_o, *empty, *full_ds, *empty_ds, *full_dq, *empty_dq;
    static constexpr int BARRIERS = 1 + 3 * LOAD_STAGES + 2 * DS_STAGES + 2 * DQ_STAGES;

    __device__ __forceinline__ Block(bf16* shared, Barrier* barriers) {
        k = shared, v = k + KEYS * DIM, q = v + KEYS * DIM, d_o = q + LOAD_STAGES * TILE, ds = d_o + LOAD_STAGES * TILE;
        dq = reinterpret_cast<float*>(ds + DS_STAGES * DS), statistics = dq + DQ_STAGES * TILE;
        own = barriers, full_q = own + 1, full_d_o = full_q + LOAD_STAGES, empty = full_d_o + LOAD_STAGES;
        full_ds = empty + LOAD_STAGES, empty_ds = full_ds + DS_STAGES;
        full_dq = empty_ds + DS_STAGES, empty_dq = full_dq + DQ_STAGES;
    }

    // One thread.
    __device__ __forceinline__ void init() const {
        barrier_init(own, 1);
        const auto ring = [](Barrier* full, uint32_t full_arrivals, Barrier* empty, uint32_t empty_arrivals, int stages) {
            for (int i = 0; i < stages; i++) {
                barrier_init(&full[i], full_arrivals);
                barrier_init(&empty[i], empty_arrivals);
            }
        };
        // Arrivals are the copy engine's, one thread's, or one a warp of keys (8) or of queries (4).
        ring(full_q, 1, empty, 8, LOAD_STAGES);
        ring(full_ds, 8, empty_ds, 4, DS_STAGES);
        ring(full_dq, 4, empty_dq, 1, DQ_STAGES);
        for (int i = 0; i < LOAD_STAGES; i++) barrier_init(&full_d_o[i], 1);
        barrier_init_fence();
    }
};

// One lane for its warp.
__device__ __forceinline__ void arrive_warp(Barrier* barrier) {
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
