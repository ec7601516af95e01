// The products of a low-rank adapter on the tensor cores, for bf16 activations. They are bound by the activations, which
// each reads or writes once. A factor stays f32 in all but name: it goes in as two bf16, its rounded value and what
// rounding took off, which leaves 2^-18 of it.
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "tile/fragment.cuh"
#include "tile/philox.cuh"
#include "tile/split.cuh"
#include "tile/vector.cuh"

constexpr int THREADS = 128;
constexpr int DEPTH = 64;  // of the sum a stage

// A part of a small f32 matrix in shared memory, split: ROWS of it by DEPTH of the sum, zeros beyond the matrix.
// K_MAJOR: lines in memory, and here, run along the sum.
template <int ROWS, int DEPTH, bool K_MAJOR> struct Factor {
    static constexpr int WIDTH = K_MAJOR ? DEPTH : ROWS;
    static constexpr int EACH = ROWS * DEPTH / THREADS;
    using Tile = SwizzledTile<WIDTH / 8>;

    bf16 high[ROWS * DEPTH], low[ROWS * DEPTH];

    // The i-th element of this thread of the part at (row0, k0).
    static __device__ __forceinline__ float load(int i, const float* matrix, uint32_t rows, uint32_t depth, uint32_t row0,
                                                 uint32_t k0) {
        const uint32_t lines = K_MAJOR ? rows : depth, columns = K_MAJOR ? depth : rows;
        const int at = threadIdx.x + i * THREADS;
        const uint32_t line = (K_MAJOR ? row0 : k0) + at / WIDTH, column = (K_MAJOR ? k0 : row0) + at % WIDTH;
        return line < lines && column < columns ? matrix[(size_t)line * columns + column] : 0.0f;
    }
    // Puts it in its place; `place` says which row it becomes.
    template <class Place> __device__ __forceinline__ void store(int i, float x, Place place) {
        const int at = threadIdx.x + i * THREADS;
        const int line = K_MAJOR ? place(at / WIDTH) : at / WIDTH, column = K_MAJOR ? at % WIDTH : place(at % WIDTH);
        const Split split(x);
        const int to = Tile::offset(line, column / 8) + column % 8;
        high[to] = split.high;
        low[to] = split.low;
    }
    // Both halves of the 16x16 at (row0, k0), as right operands.
    __device__ __forceinline__ void fragments(uint32_t (&of_high)[2][2], uint32_t (&of_low)[2][2], int row0, int k0) const {
        fragment_b<Tile, K_MAJOR>(of_high, high, row0, k0);
        fragment_b<Tile, K_MAJOR>(of_low, low, row0, k0);
    }
};

// Zeroes what dropout drops of eight neighbours; the others are scaled when all is summed.
__device__ __forceinline__ uint4 drop(uint4 eight, const DropoutParams& dropout, uint64_t index) {
    if (dropout.threshold == 0) return eight;
    uint32_t* pairs = &eight.x;
#pragma unroll
    for (int quad = 0; quad < 2; quad++) {
        const uint32_t kept = dropout_kept(dropout, index / 4 + quad);
        pairs[quad * 2] &= (kept & 1 ? 0xffffu : 0) | (kept & 2 ? 0xffff0000u : 0);
        pairs[quad * 2 + 1] &= (kept & 4 ? 0xffffu : 0) | (kept & 8 ? 0xffff0000u : 0);
    }
    return eight;
}

// Partial sums of out[m, rank] = activations . factor over a part of the sum: 64 of m by RANKS of the rank a block.
// M_MAJOR: the activations' lines run along m (the sum is over tokens), else along the sum.
template <int RANKS, bool M_MAJOR, bool FACTOR_K_MAJOR> struct Thin {
    using Activations = SwizzledTile<8>;
    using Right = Factor<RANKS, DEPTH, FACTOR_K_MAJOR>;
    static constexpr int ROWS = 64, CHUNKS = ROWS * DEPTH / 8 / THREADS;

    struct Stage {
        uint4 left[CHUNKS];
        float right[Right::EACH];
    };

    static __device__ __forceinline__ void load(Stage& stage, const LoraThinParams& p, uint32_t m0, uint32_t r0,
                                                uint32_t k0) {
        const uint32_t lines = M_MAJOR ? p.k : p.m, columns = M_MAJOR ? p.m : p.k;
        const uint32_t line0 = M_MAJOR ? k0 : m0, column0 = M_MAJOR ? m0 : k0;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            const int at = threadIdx.x + i * THREADS;
            const uint32_t line = line0 + at / 8, column = column0 + at % 8 * 8;
            const size_t index = (size_t)line * columns + column;
            const bool inside = line < lines && column < columns;
            stage.left[i] = inside ? load_16(reinterpret_cast<const bf16*>(p.left) + index) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < Right::EACH; i++) {
            stage.right[i] = Right::load(i, reinterpret_cast<const float*>(p.right), p.n, p.k, r0, k0);
        }
    }

    static __device__ __forceinline__ void run(const LoraThinParams& p) {
        __shared__ __align__(16) bf16 left[ROWS * DEPTH];
        __shared__ __align__(16) Right right;
        const DropoutParams dropout = of_this_step(p.dropout);
        const uint32_t m0 = blockIdx.x * ROWS, r0 = blockIdx.y * RANKS;
        const uint32_t all = (p.k + DEPTH - 1) / DEPTH;
        const uint32_t first = all * blockIdx.z / gridDim.z, last = all * (blockIdx.z + 1) / gridDim.z;
        const int warp_row = threadIdx.x / 32 * 16;
        float sum[RANKS / 8][4] = {};
        Stage stage;
        if (first < last) load(stage, p, m0, r0, first * DEPTH);
        for (uint32_t step = first; step < last; step++) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                const int at = threadIdx.x + i * THREADS;
                const uint64_t line = (M_MAJOR ? step * DEPTH : m0) + at / 8, column = (M_MAJOR ? m0 : step * DEPTH) + at % 8 * 8;
                store_16(left + Activations::offset(at / 8, at % 8),
                         drop(stage.left[i], dropout, line * (M_MAJOR ? p.m : p.k) + column));
            }
#pragma unroll
            for (int i = 0; i < Right::EACH; i++) right.store(i, stage.right[i], [](int row) { return row; });
            __syncthreads();
            if (step + 1 < last) load(stage, p, m0, r0, (step + 1) * DEPTH);
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16) {
                uint32_t a[4];
                fragment_a<Activations, !M_MAJOR>(a, left, warp_row, k);
#pragma unroll
                for (int j = 0; j < RANKS / 16; j++) {
                    uint32_t high[2][2], low[2][2];
                    right.fragments(high, low, j * 16, k);
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        mma_m16n8k16_bf16(sum[j * 2 + half], a, low[half]);
                        mma_m16n8k16_bf16(sum[j * 2 + half], a, high[half]);
                    }
                }
            }
            __syncthreads();
        }
        const int lane = threadIdx.x % 32, row = m0 + warp_row + lane / 4;
        float* partial = reinterpret_cast<float*>(p.partials) + (size_t)blockIdx.z * p.m * p.n;
#pragma unroll
        for (int i = 0; i < RANKS / 2; i++) {
            const uint32_t m = row + i % 4 / 2 * 8, r = r0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (m < p.m && r < p.n) partial[(size_t)m * p.n + r] = sum[i / 4][i % 4];
        }
    }
};

// out[m, n], or its transpose, = or += scale times the sum of the partial sums, in their order. The blocks behind those
// that this takes make a factor a side of the product that takes it as more of k (gemm_sm90.cu).
KERNEL(lora_sum, LoraSumParams, 256) {
    const uint32_t count = p.m * p.n, blocks = (count + 255) / 256;
    if (blockIdx.x >= blocks) {
        const uint32_t i = (blockIdx.x - blocks) * 256 + threadIdx.x;
        const float* factor = reinterpret_cast<const float*>(p.factor.x);
        if (i < p.factor.rows * p.factor.rank) side_row(p.factor.side, i, p.factor.rank, p.factor.width, factor[i], false);
        return;
    }
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const uint32_t from = p.transposed ? i % p.m * p.n + i / p.m : i;
    float sum = 0.0f;
    for (uint32_t part = 0; part < p.parts; part++) {
        sum += reinterpret_cast<const float*>(p.partials)[(size_t)part * count + from];
    }
    float* out = reinterpret_cast<float*>(p.out) + i;
    *out = p.accumulate ? fmaf(p.scale, sum, *out) : p.scale * sum;
    if (p.side) side_row(p.side, i, p.n, p.width, p.side_scale * *out, true);
}

// y[m, n] += scale * dropout(left[m, rank] . factor): 64 of m by 128 of n a block. A lane holds eight neighbours of a row,
// so that y moves 16 bytes at a time: column 8 t + 2 j + e of 32 is column 2 t + e of the j-th fragment.
template <bool FACTOR_K_MAJOR> struct Wide {
    static constexpr int ROWS = 64, COLUMNS = 128, RANKS = 32;  // at a time
    using Left = Factor<ROWS, RANKS, true>;
    using Right = Factor<COLUMNS, RANKS, FACTOR_K_MAJOR>;

    static __device__ __forceinline__ int place(int column) {
        return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
    }

    static __device__ __forceinline__ void run(const LoraParams& p) {
        __shared__ __align__(16) Left left;
        __shared__ __align__(16) Right right;
        const DropoutParams dropout = of_this_step(p.dropout);
        const uint32_t m0 = blockIdx.x * ROWS, n0 = blockIdx.y * COLUMNS;
        const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
        float sum[COLUMNS / 8][4] = {};
        for (uint32_t k0 = 0; k0 < p.k; k0 += RANKS) {
#pragma unroll 8
            for (int i = 0; i < Left::EACH; i++) {
                const float x = Left::load(i, reinterpret_cast<const float*>(p.left), p.m, p.k, m0, k0);
                left.store(i, x, [](int row) { return row; });
            }
#pragma unroll 8
            for (int i = 0; i < Right::EACH; i++) {
                right.store(i, Right::load(i, reinterpret_cast<const float*>(p.right), p.n, p.k, n0, k0), place);
            }
            __syncthreads();
#pragma unroll 1
            for (uint32_t k = 0; k < RANKS && k0 + k < p.k; k += 16) {
                uint32_t a_high[4], a_low[4];
                fragment_a<typename Left::Tile, true>(a_high, left.high, warp_row, k);
                fragment_a<typename Left::Tile, true>(a_low, left.low, warp_row, k);
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; j++) {
                    uint32_t high[2][2], low[2][2];
                    right.fragments(high, low, j * 16, k);
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        mma_m16n8k16_bf16(sum[j * 2 + half], a_high, low[half]);
                        mma_m16n8k16_bf16(sum[j * 2 + half], a_low, high[half]);
                        mma_m16n8k16_bf16(sum[j * 2 + half], a_high, high[half]);
                    }
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < COLUMNS / 32 * 2; i++) {
            const uint32_t row = m0 + warp_row + lane / 4 + i % 2 * 8, column = n0 + i / 2 * 32 + lane % 4 * 8;
            if (row >= p.m || column >= p.n) continue;
            const uint64_t at = (uint64_t)row * p.n + column;
            bf16* y = reinterpret_cast<bf16*>(p.out) + at;
            Eight eight = load_eight(y);
            const uint32_t kept = dropout.threshold == 0 ? 0xff
                                                         : dropout_kept(dropout, at / 4) | dropout_kept(dropout, at / 4 + 1) << 4;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (kept >> e & 1) eight.v[e] = fmaf(p.scale, sum[i / 2 * 4 + e / 2][i % 2 * 2 + e % 2], eight.v[e]);
            }
            store_eight(y, eight);
        }
    }
};

// s = drop(x) a^T; ds = dy b; db = dy^T s; da^T = drop(x)^T ds. Ranks up to 16, up to 32, and 64 at a time.
#define THIN_KERNELS(ranks, blocks)                                                                                \
    KERNEL(lora_thin_down_##ranks, LoraThinParams, THREADS, blocks) { Thin<ranks, false, true>::run(p); }            \
    KERNEL(lora_thin_ds_##ranks, LoraThinParams, THREADS, blocks) { Thin<ranks, false, false>::run(p); }             \
    KERNEL(lora_thin_tokens_##ranks, LoraThinParams, THREADS, blocks) { Thin<ranks, true, false>::run(p); }
THIN_KERNELS(16, 4)
THIN_KERNELS(32, 3)
THIN_KERNELS(64, 2)

// y += s b^T; dx += drop'(ds a)
KERNEL(lora_wide_up, LoraParams, THREADS) { Wide<true>::run(p); }
KERNEL(lora_wide_dx, LoraParams, THREADS) { Wide<false>::run(p); }
