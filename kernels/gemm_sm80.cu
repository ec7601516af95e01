// c = a b (+ c) for bf16 a and b on the tensor cores of sm_80: mma.sync fed by ldmatrix from a ring of tiles in
// shared memory that cp.async fills. Layouts as in src/ops/gemm.rs. Chunks beyond a matrix arrive as zeros, so any
// m, n and k will do as long as the rows of a and b in memory are multiples of 16 bytes.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/mma.cuh"
#include "tile/fragment.cuh"
#include "tile/schedule.cuh"
#include "tile/store.cuh"
#include "tile/swizzle.cuh"

// One operand's tiles: ROWS of m or n by DEPTH of k. K_MAJOR: rows in memory run along k, else along m or n.
template <int ROWS, int DEPTH, bool K_MAJOR, int THREADS> struct Operand {
    static constexpr int CHUNKS = (K_MAJOR ? DEPTH : ROWS) / 8;
    static constexpr int LINES = K_MAJOR ? ROWS : DEPTH;
    static constexpr int ELEMENTS = ROWS * DEPTH;
    static constexpr int EACH = LINES * CHUNKS / THREADS;  // chunks a thread copies,
    static constexpr int APART = THREADS / CHUNKS;         // so many lines from one to the next
    using Swizzled = SwizzledTile<CHUNKS>;
    static_assert(APART % 8 == 0, "a thread's chunks are swizzled alike");

    const bf16* matrix;  // of `rows` of m or n and `k` of k
    uint32_t rows, k;
    const bf16* from;  // this thread's first chunk of the next tile
    int left;          // of k from there on
    uint32_t inside;   // a bit for each chunk whose row is in the matrix

    __device__ __forceinline__ uint32_t columns() const { return K_MAJOR ? k : rows; }

    // The next tile is the one at row0 and the start of k.
    __device__ __forceinline__ void begin(uint32_t row0) {
        const uint32_t line = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * 8;
        from = matrix + (K_MAJOR ? (size_t)(row0 + line) * k + column : (size_t)line * rows + row0 + column);
        left = (int)k - (int)(K_MAJOR ? column : line);
        inside = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const uint32_t row = row0 + (K_MAJOR ? line + i * APART : column);
            inside |= (row < rows) << i;
        }
    }

    // Copies the next tile; what lies beyond the matrix becomes zeros. The next is then the one behind it along k.
    __device__ __forceinline__ void copy(bf16* tile) {
        bf16* to = tile + Swizzled::offset(threadIdx.x / CHUNKS, threadIdx.x % CHUNKS);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const bool valid = (inside >> i & 1) && left > (K_MAJOR ? 0 : i * APART);
            cp_async_16(to + i * APART * CHUNKS * 8, from + (size_t)i * APART * columns(), valid ? 16 : 0);
        }
        from += K_MAJOR ? DEPTH : (size_t)DEPTH * rows;
        left -= DEPTH;
    }
};

// BM x BN of c a block, BK of k a stage, shared among WARPS_M x WARPS_N warps.
template <int BM, int BN, int BK, int WARPS_M, int WARPS_N, int STAGES> struct Gemm {
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int FRAGMENTS_M = BM / WARPS_M / 16;
    static constexpr int FRAGMENTS_N = BN / WARPS_N / 8;

    template <bool A_K_MAJOR, bool B_K_MAJOR, class C> static __device__ __forceinline__ void run(const GemmParams& p) {
        using A = Operand<BM, BK, A_K_MAJOR, THREADS>;
        using B = Operand<BN, BK, B_K_MAJOR, THREADS>;
        constexpr int STAGE = A::ELEMENTS + B::ELEMENTS;
        static_assert(STAGES * STAGE * sizeof(bf16) == STAGES * (BM + BN) * BK * 2, "what gemm.rs asks for");
        DYNAMIC_SHARED(bf16, shared);
        const TileIndex tile = tile_of(blockIdx.x, (p.m + BM - 1) / BM, (p.n + BN - 1) / BN);
        const uint32_t m0 = tile.m * BM, n0 = tile.n * BN;
        const int steps = (p.k + BK - 1) / BK;
        A a{reinterpret_cast<const bf16*>(p.a), p.m, p.k};
        B b{reinterpret_cast<const bf16*>(p.b), p.n, p.k};
        a.begin(m0);
        b.begin(n0);
        // A step's copies are a group, so that the count of groups tells which stage has arrived; behind k, zeros.
        const auto copy = [&](int stage) {
            a.copy(shared + stage * STAGE);
            b.copy(shared + stage * STAGE + A::ELEMENTS);
            cp_async_commit();
        };
#pragma unroll
        for (int step = 0; step < STAGES - 1; step++) copy(step);

        const int warp = threadIdx.x / 32;
        const int warp_m = warp % WARPS_M * (BM / WARPS_M), warp_n = warp / WARPS_M * (BN / WARPS_N);
        // Fragments of the 16 of k that are multiplied, and of the next, which are on their way.
        uint32_t fa[2][FRAGMENTS_M][4], fb[2][FRAGMENTS_N / 2][2][2];
        const auto load = [&](int buffer, const bf16* stage, int k0) {
#pragma unroll
            for (int i = 0; i < FRAGMENTS_M; i++) {
                fragment_a<typename A::Swizzled, A_K_MAJOR>(fa[buffer][i], stage, warp_m + i * 16, k0);
            }
#pragma unroll
            for (int j = 0; j < FRAGMENTS_N / 2; j++) {
                fragment_b<typename B::Swizzled, B_K_MAJOR>(fb[buffer][j], stage + A::ELEMENTS, warp_n + j * 16, k0);
            }
        };
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load(0, shared, 0);
        float sum[FRAGMENTS_M][FRAGMENTS_N][4] = {};
        int stage = 0, before = STAGES - 1;
        for (int step = 0; step < steps; step++) {
            const int next = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
            for (int k0 = 0; k0 < BK; k0 += 16) {
                const int buffer = k0 / 16 % 2;
                if (k0 + 16 < BK) {
                    load(buffer ^ 1, shared + stage * STAGE, k0 + 16);
                } else {
                    cp_async_wait<STAGES - 2>();
                    __syncthreads();  // all see the next stage, and all have read this one
                    load(buffer ^ 1, shared + next * STAGE, 0);
                }
#pragma unroll
                for (int i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
                    for (int j = 0; j < FRAGMENTS_N; j++) {
                        mma_m16n8k16_bf16(sum[i][j], fa[buffer][i], fb[buffer][j / 2][j % 2]);
                    }
                }
                if (k0 == 0) copy(before);  // at the barrier, all had read it
            }
            before = stage;
            stage = next;
        }

        const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < FRAGMENTS_M * 2; i++) {
            const uint32_t row = m0 + warp_m + i * 8 + group;
            if (row >= p.m) continue;
            const Row<C> c{reinterpret_cast<C*>(p.c) + (size_t)row * p.n, p.n, p.accumulate != 0};
#pragma unroll
            for (int j = 0; j < FRAGMENTS_N; j++) {
                const float* two = &sum[i / 2][j][i % 2 * 2];
                c.store(n0 + warp_n + j * 8 + pair, two[0], two[1]);
            }
        }
    }
};

// The tile for products with many tiles, and the one for few rows or few tiles. gemm/cuda.rs knows their sizes.
using Large = Gemm<128, 128, 64, 2, 2, 3>;
using Small = Gemm<32, 64, 64, 1, 4, 4>;

#define GEMM_KERNELS(layout, a_k_major, b_k_major)                                                               \
    KERNEL(gemm_##layout##_bf16_large, GemmParams, 128, 2) { Large::run<a_k_major, b_k_major, bf16>(p); }        \
    KERNEL(gemm_##layout##_f32_large, GemmParams, 128, 2) { Large::run<a_k_major, b_k_major, float>(p); }        \
    KERNEL(gemm_##layout##_bf16_small, GemmParams, 128, 4) { Small::run<a_k_major, b_k_major, bf16>(p); }        \
    KERNEL(gemm_##layout##_f32_small, GemmParams, 128, 4) { Small::run<a_k_major, b_k_major, float>(p); }
GEMM_KERNELS(nt, true, true)
GEMM_KERNELS(nn, true, false)
GEMM_KERNELS(tn, false, false)
