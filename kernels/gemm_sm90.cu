// c = a b (+ c) for bf16 a and b on Hopper's tensor cores. One warpgroup only loads: the copy engine fills a ring of
// stages in shared memory; the others only compute: wgmma reads the stages. Layouts as in src/ops/gemm.rs.
#include "kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/mainloop.cuh"
#include "tile/results.cuh"
#include "tile/schedule.cuh"

// For products of many tiles, of two pairs of operands if need be: as many blocks as fit at once, each of which takes tile
// after tile. A tile's results leave while the next one is computed.
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
#pragma unroll
                for (int slab = 0; slab < Staged<BN>::SLABS; slab++) last.store(slab, &p.c_map);
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

// For few rows or few tiles: the blocks of a cluster take a part of k each, and add up their sums in the order of k.
// Its last warp loads.
template <int BM, int BN, int STAGES> struct SplitK {
    static constexpr int THREADS = BM / 64 * 128 + 32;
    static constexpr int LOADER = BM / 64 * 128;
    static constexpr uint32_t MOST = 8;  // blocks a cluster
    static constexpr int ROW = BN + 8;   // floats, so that a warp's rows fall on different banks

    template <bool A_K_MAJOR, bool B_K_MAJOR, class C>
    static __device__ __forceinline__ void run(const GemmSm90Params& p) {
        using Loop = Mainloop<BM, BN, STAGES, 1, A_K_MAJOR, B_K_MAJOR>;
        static_assert(BM * ROW * sizeof(float) <= STAGES * Loop::STAGE * sizeof(bf16), "the sums take the stages' place");
        __shared__ Barrier barriers[2 * STAGES];
        DYNAMIC_SHARED(bf16, shared);
        Loop loop{shared, barriers, barriers + STAGES};
        loop.init(p);
        __syncthreads();

        const uint32_t splits = p.splits, rank = blockIdx.x % splits, tile = blockIdx.x / splits;
        const uint32_t tiles_m = (p.m + BM - 1) / BM;
        const uint32_t m0 = tile % tiles_m * BM, n0 = tile / tiles_m * BN;
        const int all = (p.k + DEPTH - 1) / DEPTH, first = all * rank / splits;
        const int steps = all * (rank + 1) / splits - first;
        Ring<STAGES> at;
        float* sums = reinterpret_cast<float*>(shared);
        if (threadIdx.x >= LOADER) {
            if (threadIdx.x == LOADER) loop.load(at, p, &p.a, &p.b, m0, n0, first * DEPTH, steps, 0);
            return;  // all of it arrives before the others need it
        }
        float sum[BN / 2];
        loop.compute(at, sum, threadIdx.x / 128, steps);
        named_barrier(1, LOADER);  // all have read the last stage
        const int lane = threadIdx.x % 32, line = threadIdx.x / 32 * 16 + lane / 4, pair = lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < BN / 4; i++) {
            float* to = sums + (line + i % 2 * 8) * ROW + i / 2 * 8 + pair;
            *reinterpret_cast<float2*>(to) = make_float2(sum[2 * i], sum[2 * i + 1]);
        }
        splits > 1 ? cluster_sync() : named_barrier(1, LOADER);
        // Rows rank, rank + splits, ... of the tile.
        constexpr int FOURS = BN / 4;
        const uint32_t rows = min((uint32_t)BM, p.m - m0);
        for (uint32_t i = threadIdx.x; rank + i / FOURS * splits < rows; i += LOADER) {
            const uint32_t row = rank + i / FOURS * splits, column = i % FOURS * 4;
            if (n0 + column >= p.n) continue;
            float4 part[MOST];  // all asked for before the first is needed
#pragma unroll
            for (uint32_t of = 0; of < MOST; of++) {
                const float* from = sums + row * ROW + column;
                if (of < splits) part[of] = splits > 1 ? load_shared_of(from, of) : *reinterpret_cast<const float4*>(from);
            }
            float4 total = part[0];
#pragma unroll
            for (uint32_t of = 1; of < MOST; of++) {
                if (of >= splits) break;
                total.x += part[of].x, total.y += part[of].y, total.z += part[of].z, total.w += part[of].w;
            }
            const Row<C> to{reinterpret_cast<C*>(p.c) + (size_t)(m0 + row) * p.n, p.n, p.accumulate != 0};
            to.store(n0 + column, total.x, total.y);
            to.store(n0 + column + 2, total.z, total.w);
        }
        if (splits > 1) cluster_sync();  // others may still read these sums
    }
};

// gemm.rs knows their sizes.
#define PERSISTENT(layout, a, b, type, C, width, stages)                                     \
    KERNEL(gemm_sm90_##layout##_##type##_##width, GemmSm90Params, 384, 1) {                  \
        Persistent<128, width, stages, 2>::run<a, b, C>(p);                                  \
    }
#define SPLIT(layout, a, b, type, C, bm, bn, stages, blocks)                                                      \
    KERNEL(gemm_sm90_##layout##_##type##_##bm##x##bn, GemmSm90Params, SplitK<bm, bn, stages>::THREADS, blocks) { \
        SplitK<bm, bn, stages>::run<a, b, C>(p);                                                                  \
    }
#define KERNELS(layout, a, b, type, C)                \
    PERSISTENT(layout, a, b, type, C, 256, 4)         \
    PERSISTENT(layout, a, b, type, C, 192, 4)         \
    PERSISTENT(layout, a, b, type, C, 128, 6)         \
    PERSISTENT(layout, a, b, type, C, 64, 8)          \
    SPLIT(layout, a, b, type, C, 128, 128, 3, 2)      \
    SPLIT(layout, a, b, type, C, 128, 64, 4, 2)       \
    SPLIT(layout, a, b, type, C, 64, 128, 4, 2)       \
    SPLIT(layout, a, b, type, C, 64, 64, 4, 3)
KERNELS(nt, true, true, bf16, bf16)
KERNELS(nt, true, true, f32, float)
KERNELS(nn, true, false, bf16, bf16)
KERNELS(nn, true, false, f32, float)
KERNELS(tn, false, false, bf16, bf16)
KERNELS(tn, false, false, f32, float)
