// A linear layer with its adapter in one launch on Hopper: y = x W^T + scale s b^T, s = x a^T; s b^T as more of k.
//
// The tiles of y seldom go round evenly: in the last round some clusters would have none. These make s first, of 256 rows
// at a time, while the others compute, which need s only behind the last step of their first tile. x is read once more,
// at a time when memory has little to do.
//
// 232 registers a computing thread, 224 KB of shared memory, a block a multiprocessor, as gemm_sm90.cu.
#include "kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/flag.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/mainloop.cuh"
#include "tile/results.cuh"
#include "tile/schedule.cuh"
#include "tile/split.cuh"
#include "tile/vector.cuh"

// FACTORS: rows of the factor; SPLIT: as many of h as of l.
template <int BN, int STAGES, int FACTORS, bool SPLIT> struct Adapted {
    static constexpr int BM = 128, SHARES = 2, THREADS = 384, RANKS = SPLIT ? FACTORS / 2 : FACTORS;
    using Loop = Mainloop<BM, BN, STAGES, SHARES, true, true>;
    using Factor = OperandTile<FACTORS, true>;
    // A stage holds so many steps of x and of the factor.
    static constexpr int PART = Loop::A::ELEMENTS + Factor::ELEMENTS, PARTS = Loop::STAGE / PART;
    static_assert(PARTS > 0, "a step of x and of the factor fits a stage");

    const LoraSm90Params& p;
    Loop& loop;
    Ring<STAGES> at;

    // One thread: what sum() takes, for 128 rows.
    __device__ __forceinline__ void load_factor(uint32_t m0, int stages, uint32_t rank) {
        for (int step = 0; step < stages; step++, at.advance()) {
            barrier_wait(&loop.empty[at.stage], at.parity ^ 1);
            barrier_arrive_expecting(&loop.full[at.stage], PARTS * PART * sizeof(bf16));
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                bf16* to = loop.stages + at.stage * Loop::STAGE + part * PART;
                const int k = (step * PARTS + part) * DEPTH;
                Loop::A::template load<1>(to, &p.gemm.a, m0, k, &loop.full[at.stage], 0);
                Factor::template load<SHARES>(to + Loop::A::ELEMENTS, &p.factor, 0, k, &loop.full[at.stage], rank);
            }
        }
    }

    // A computing warpgroup: its 64 rows of x times the factor.
    __device__ __forceinline__ void sum(float (&sum)[FACTORS / 2], int consumer, int stages) {
        uint32_t before = at.stage;
        for (int step = 0; step < stages; step++) {
            const bf16* stage = loop.stages + at.stage * Loop::STAGE;
            barrier_wait(&loop.full[at.stage], at.parity);
            wgmma_begin();
#pragma unroll
            for (int i = 0; i < PARTS * DEPTH; i += 16) {
                const bf16* part = stage + i / DEPTH * PART;
                wgmma<FACTORS, true, true>(sum, Loop::A::descriptor(part, consumer * 64, i % DEPTH),
                                           Factor::descriptor(part + Loop::A::ELEMENTS, 0, i % DEPTH), step > 0 || i > 0);
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (step > 0) loop.release(before);
            before = at.stage;
            at.advance();
        }
        wgmma_wait<0>();
        keep(sum);
        loop.release(before);
    }

    // Stores s and, as a side of the product, scale s of a warpgroup's rows from `row0` on, and says so.
    __device__ __forceinline__ void publish(const float (&sum)[FACTORS / 2], uint32_t row0, int consumer) {
        const uint32_t thread = threadIdx.x % 128, lane = thread % 32;
        const uint32_t row = row0 + thread / 32 * 16 + lane / 4;
#pragma unroll
        for (int i = 0; i < RANKS / 2; i++) {
            const uint32_t m = row + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (m >= p.gemm.m || column >= p.rank) continue;
            const uint32_t index = m * p.rank + column;
            const float s = SPLIT ? sum[i] + sum[i + FACTORS / 4] : sum[i];
            reinterpret_cast<float*>(p.s)[index] = s;
            side_row(p.left, index, p.rank, p.width, p.scale * s, true);
        }
        async_proxy_fence_global();  // the copy engine reads it
        named_barrier(consumer + 1, 128);
        if (thread == 0) add_release(reinterpret_cast<uint32_t*>(p.ready) + row0 / BM);
    }

    // One thread: waits until scale s of 128 rows is there.
    __device__ __forceinline__ void wait_for_rows(uint32_t m0) {
        while (load_acquire(reinterpret_cast<const uint32_t*>(p.ready) + m0 / BM) != 2) {
        }
        async_proxy_fence_global();
    }

    __device__ __forceinline__ void run() {
        const GemmSm90Params& g = p.gemm;
        const uint32_t rank = cluster_rank();
        const uint32_t rows = (g.m + SHARES * BM - 1) / (SHARES * BM), columns = (g.n + BN - 1) / BN;
        const uint32_t cluster = blockIdx.x / SHARES, clusters = gridDim.x / SHARES;
        const int steps = (g.k + DEPTH - 1) / DEPTH, stages = (steps + PARTS - 1) / PARTS;
        const auto each_part = [&](auto work) {
            if (cluster >= p.takers) return;
            for (uint32_t i = cluster; i < rows; i += p.takers) work((i * SHARES + rank) * BM);
        };
        // Those that make s begin first, so nobody waits for one that cannot begin; and are the last to get a tile.
        const uint32_t turn = cluster < p.takers ? cluster + clusters - p.takers : cluster - p.takers;
        const auto each_tile = [&](auto work) {
            for (uint32_t i = turn; i < rows * columns; i += clusters) {
                const TileIndex tile = tile_of(i, rows, columns);
                work((tile.m * SHARES + rank) * BM, tile.n * BN);
            }
        };
        const int consumer = threadIdx.x / 128 - 1;
        if (consumer < 0) {
            fewer_registers<40>();
            if (threadIdx.x == 0) {
                each_part([&](uint32_t m0) { load_factor(m0, stages, rank); });
                each_tile([&](uint32_t m0, uint32_t n0) {
                    loop.load(at, g, &g.a, &g.b, m0, n0, 0, steps, rank);
                    wait_for_rows(m0);
                    loop.load(at, g, &g.more_a, &g.more_b, m0, n0, 0, g.more, rank);
                });
            }
        } else {
            more_registers<232>();
            each_part([&](uint32_t m0) {
                float products[FACTORS / 2];
                sum(products, consumer, stages);
                publish(products, m0 + consumer * 64, consumer);
            });
            float tile[BN / 2];
            Staged<BN> last(loop.stages + STAGES * Loop::STAGE + consumer * Staged<BN>::ELEMENTS, consumer + 1);
            each_tile([&](uint32_t m0, uint32_t n0) {
                loop.template compute<Staged<BN>::SLABS>(at, tile, consumer, steps + g.more,
                                                         [&](int slab) { last.store(slab, &g.c_map); });
                last.take(tile, m0 + consumer * 64, n0);
            });
#pragma unroll
            for (int slab = 0; slab < Staged<BN>::SLABS; slab++) last.store(slab, &g.c_map);
            last.finish();
        }
        cluster_sync();  // a block may still send to, or arrive at, the other's shared memory
    }

    static __device__ __forceinline__ void run(const LoraSm90Params& p) {
        __shared__ Barrier barriers[2 * STAGES];
        DYNAMIC_SHARED(bf16, shared);
        Loop loop{shared, barriers, barriers + STAGES};
        loop.init(p.gemm);
        cluster_sync();
        __syncthreads();
        Adapted{p, loop}.run();
    }
};

// Makes both factors sides of a product: a of one or two matrices, eight elements a thread; behind them b, one a thread; and
// clears the counters.
KERNEL(lora_sides, LoraSidesParams, 256) {
    uint32_t i = blockIdx.x * 256 + threadIdx.x;
    const uint32_t eights = p.k / 8, of_a = p.ranks * eights, of_b = p.b.rows * p.b.rank;
    if (i < of_a) {
        const bool inside = i / eights < p.b.rank;
        const Eight x = inside ? load_eight(reinterpret_cast<const float*>(p.a) + (size_t)i * 8) : Eight{};
        bf16* high = reinterpret_cast<bf16*>(p.a_side) + (size_t)i * 8;
        store_eight(high, x);
        if (!p.split) return;
        Eight rest;
#pragma unroll
        for (int j = 0; j < 8; j++) rest.v[j] = x.v[j] - to_float(from_float<bf16>(x.v[j]));
        store_eight(high + (size_t)p.ranks * p.k, rest);
    } else if (i -= of_a; i < of_b) {
        side_row(p.b.side, i, p.b.rank, p.b.width, reinterpret_cast<const float*>(p.b.x)[i], false);
    } else if (i -= of_b; i < p.tiles) {
        reinterpret_cast<uint32_t*>(p.ready)[i] = 0;
    }
}

// lora_sm90_<columns of a tile>_<most ranks>: lora/sm90.rs knows their sizes. Up to 32 ranks a factor is split; 64 are rounded, and
// so take no longer.
#define ADAPTED(columns, stages)                                                                                         \
    KERNEL(lora_sm90_##columns##_32, LoraSm90Params, 384, 1) { Adapted<columns, stages, 64, true>::run(p); }             \
    KERNEL(lora_sm90_##columns##_64, LoraSm90Params, 384, 1) { Adapted<columns, stages, 64, false>::run(p); }
ADAPTED(256, 4)
ADAPTED(192, 4)
ADAPTED(128, 6)
