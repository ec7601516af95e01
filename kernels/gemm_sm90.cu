// c = a b (+ c) for bf16 a and b on Hopper's tensor cores. One warpgroup only loads: the copy engine fills a ring of
// stages in shared memory; the others only compute: wgmma reads the stages. Layouts as in src/ops/gemm.rs.
#include "kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/mainloop.cuh"
#include "tile/results.cuh"
#include "tile/schedule.cuh"

// As many blocks as fit at once, each of which takes tile after tile, of two pairs of operands if need be: the next
// tile's are on their way while this one is computed, and its results leave while the next one is. SHARES blocks that
// lie below each other share their tiles of b: less comes out of L2, but short products are quicker without.
template <int BM, int BN, int STAGES, int SHARES> struct Persistent {
    static constexpr int THREADS = 128 + BM / 64 * 128;

    template <bool A_K_MAJOR, bool B_K_MAJOR, class C>
    static __device__ __forceinline__ void run(const GemmSm90Params& p) {
        using Loop = Mainloop<BM, BN, STAGES, SHARES, A_K_MAJOR, B_K_MAJOR>;
        __shared__ Barrier barriers[2 * STAGES];
        DYNAMIC_SHARED(bf16, shared);
        Loop loop{shared, barriers, barriers + STAGES};
        loop.init(p);
        const uint32_t rank = SHARES > 1 ? cluster_rank() : 0;
        if (SHARES > 1) cluster_sync();
        __syncthreads();

        const uint32_t rows = (p.m + SHARES * BM - 1) / (SHARES * BM), columns = (p.n + BN - 1) / BN;
        const int steps = (p.k + DEPTH - 1) / DEPTH;
        const auto each_tile = [&](auto work) {
            for (uint32_t i = blockIdx.x / SHARES; i < rows * columns; i += gridDim.x / SHARES) {
                const TileIndex tile = tile_of(i, rows, columns);
                work((tile.m * SHARES + rank) * BM, tile.n * BN);
            }
        };
        Ring<STAGES> at;
        const int consumer = threadIdx.x / 128 - 1;
        if (consumer < 0) {
            fewer_registers<40>();
            if (threadIdx.x == 0) {
                each_tile([&](uint32_t m0, uint32_t n0) {
                    loop.load(at, p, &p.a, &p.b, m0, n0, 0, steps, rank);
                    loop.load(at, p, &p.more_a, &p.more_b, m0, n0, 0, p.more, rank);
                });
            }
        } else {
            more_registers<232>();
            float sum[BN / 2];
            if (sizeof(C) == sizeof(bf16) && p.staged) {
                Staged<BN> last(shared + STAGES * Loop::STAGE + consumer * Staged<BN>::ELEMENTS, consumer + 1);
                each_tile([&](uint32_t m0, uint32_t n0) {
                    loop.template compute<Staged<BN>::SLABS>(at, sum, consumer, steps + p.more,
                                                             [&](int slab) { last.store(slab, &p.c_map); });
                    last.take(sum, m0 + consumer * 64, n0);
                });
                // In the place of this warpgroup's rows of a, which nobody else reads.
                constexpr int PLACE = Staged<BN>::PLACE;
                static_assert((Staged<BN>::SLABS + STAGES - 1) / STAGES * PLACE <= 64 * DEPTH, "they fit");
                last.store_all(&p.c_map, [&](int slab) {
                    return shared + slab % STAGES * Loop::STAGE + consumer * 64 * DEPTH + slab / STAGES * PLACE;
                });
                last.finish();
            } else {
                each_tile([&](uint32_t m0, uint32_t n0) {
                    loop.compute(at, sum, consumer, steps + p.more);
                    store_direct<C>(sum, p, m0 + consumer * 64, n0);
                });
            }
        }
        // A block may still send to, or arrive at, the other's shared memory.
        if (SHARES > 1) cluster_sync();
    }
};

// For few tiles: the blocks of a cluster take a part of k each, and add up their sums in the order of k. The last warp
// loads.
template <int BM, int BN, int STAGES> struct SplitK {
    static constexpr int LOADER = BM / 64 * 128, THREADS = LOADER + 32;
    static constexpr int FOURS = BN / 8;  // a thread's sums, four by four, are so many

    template <bool A_K_MAJOR, bool B_K_MAJOR, class C>
    static __device__ __forceinline__ void run(const GemmSm90Params& p) {
        using Loop = Mainloop<BM, BN, STAGES, 1, A_K_MAJOR, B_K_MAJOR>;
        __shared__ Barrier barriers[2 * STAGES];
        DYNAMIC_SHARED(bf16, shared);
        float4* parts = reinterpret_cast<float4*>(shared + STAGES * Loop::STAGE);  // [splits][FOURS / splits][LOADER]
        Loop loop{shared, barriers, barriers + STAGES};
        loop.init(p);
        __syncthreads();

        const uint32_t splits = p.splits, rank = blockIdx.x % splits, tile = blockIdx.x / splits;
        const uint32_t tiles_m = (p.m + BM - 1) / BM;
        const uint32_t m0 = tile % tiles_m * BM, n0 = tile / tiles_m * BN;
        const int all = (p.k + DEPTH - 1) / DEPTH, first = all * rank / splits;
        const int steps = all * (rank + 1) / splits - first;
        Ring<STAGES> at;
        cluster_arrive();  // until all have begun, nobody writes to their shared memory
        if (threadIdx.x >= LOADER) {
            if (threadIdx.x == LOADER) loop.load(at, p, &p.a, &p.b, m0, n0, first * DEPTH, steps, 0);
            cluster_wait();
            cluster_sync();
            return;
        }
        float sum[BN / 2];
        loop.compute(at, sum, threadIdx.x / 128, steps);
        const uint32_t lane = threadIdx.x % 32, row = m0 + threadIdx.x / 32 * 16 + lane / 4;
        const bool any = row - lane / 4 < p.m;  // of the warp's rows

        // Each block adds up a share of the columns; the others send it their parts.
        const uint32_t share = FOURS / splits;
        cluster_wait();
        if (any) {
            uint32_t to = 0, place = 0;
#pragma unroll
            for (int i = 0; i < FOURS; i++) {
                const float4 four = make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
                store_shared_of(parts + (rank * share + place) * LOADER + threadIdx.x, to, four);
                if (++place == share) place = 0, to++;
            }
        }
        cluster_sync();
        if (!any) return;
        for (uint32_t i = 0; i < share; i++) {
            float4 total = parts[i * LOADER + threadIdx.x];
            for (uint32_t of = 1; of < splits; of++) {
                const float4 part = parts[(of * share + i) * LOADER + threadIdx.x];
                total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
            }
            const uint32_t column = n0 + (rank * share + i) * 8 + lane % 4 * 2;
            const auto store = [&](uint32_t m, float x, float y) {
                const Row<C> to{reinterpret_cast<C*>(p.c) + (size_t)m * p.n, p.n, p.accumulate != 0};
                if (m < p.m) to.store(column, x, y);
            };
            store(row, total.x, total.y);
            store(row + 8, total.z, total.w);
        }
    }
};

// gemm/tiles.rs knows their sizes.
#define PERSISTENT(layout, a, b, type, C, name, bm, bn, stages, shares)                           \
    KERNEL(gemm_sm90_##layout##_##type##_##name, GemmSm90Params, 128 + bm / 64 * 128, 1) {        \
        Persistent<bm, bn, stages, shares>::run<a, b, C>(p);                                      \
    }
#define SPLIT(layout, a, b, type, C, bm, bn, stages)                                                             \
    KERNEL(gemm_sm90_##layout##_##type##_split_##bm##x##bn, GemmSm90Params, SplitK<bm, bn, stages>::THREADS, 1) { \
        SplitK<bm, bn, stages>::run<a, b, C>(p);                                                                 \
    }
#define KERNELS(layout, a, b, type, C)                       \
    PERSISTENT(layout, a, b, type, C, 256, 128, 256, 4, 2)   \
    PERSISTENT(layout, a, b, type, C, 224, 128, 224, 4, 2)   \
    PERSISTENT(layout, a, b, type, C, 192, 128, 192, 4, 2)   \
    PERSISTENT(layout, a, b, type, C, 128, 128, 128, 6, 2)   \
    PERSISTENT(layout, a, b, type, C, 128x256, 128, 256, 4, 1) \
    PERSISTENT(layout, a, b, type, C, 128x192, 128, 192, 4, 1) \
    PERSISTENT(layout, a, b, type, C, 128x128, 128, 128, 6, 1) \
    PERSISTENT(layout, a, b, type, C, 64x128, 64, 128, 8, 1) \
    PERSISTENT(layout, a, b, type, C, 64x64, 64, 64, 12, 1)  \
    SPLIT(layout, a, b, type, C, 64, 128, 8)                 \
    SPLIT(layout, a, b, type, C, 64, 64, 8)
KERNELS(nt, true, true, bf16, bf16)
KERNELS(nt, true, true, f32, float)
KERNELS(nn, true, false, bf16, bf16)
KERNELS(nn, true, false, f32, float)
KERNELS(tn, false, false, bf16, bf16)
KERNELS(tn, false, false, f32, float)
