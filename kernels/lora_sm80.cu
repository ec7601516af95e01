// The products of a low-rank adapter on the tensor cores, for bf16 activations. They are bound by the activations, which
// each reads or writes once. A factor stays f32 in all but name: it goes in as two bf16, its rounded value and what
// rounding took off, which leaves 2^-18 of it. A launch takes the products of several adapters, its jobs: each alone would
// be over before all multiprocessors had work.
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "tile/fragment.cuh"
#include "tile/philox.cuh"
#include "tile/split.cuh"
#include "tile/vector.cuh"

constexpr int THREADS = 128;
constexpr int DEPTH = 64;  // of the sum a stage

// The job that this block is of, and the block's place in it.
template <class Params> __device__ __forceinline__ auto& my_job(const Params& p, uint32_t& block) {
    uint32_t which = 0;
    for (block = blockIdx.x; block >= p.jobs[which].blocks; which++) block -= p.jobs[which].blocks;
    return p.jobs[which];
}

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

// Which of eight neighbours dropout keeps, a bit each.
__device__ __forceinline__ uint32_t eight_kept(const DropoutParams& dropout, uint64_t index) {
    return dropout_kept(dropout, index / 4) | dropout_kept(dropout, index / 4 + 1) << 4;
}
// The others become zero; what is kept is scaled when all is summed.
__device__ __forceinline__ uint4 drop(uint4 eight, uint32_t kept) {
    uint32_t* pairs = &eight.x;
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] &= (kept >> 2 * i & 1 ? 0xffffu : 0) | (kept >> 2 * i & 2 ? 0xffff0000u : 0);
    return eight;
}

// Sums of out[m, rank] = activations . factor over all or a part of k: 64 of m by RANKS of the rank a block.
// M_MAJOR: the activations' lines run along m (the sum is over tokens), else along the sum.
template <int RANKS> struct ThinShared {
    bf16 left[64 * DEPTH];
    bf16 right[2 * RANKS * DEPTH];
};

// FEW: blocks of a step or two, which wait for loads and for their own code: dropout is drawn while they are under way, in a loop, and
// everything stands here once. It needs registers that blocks of more steps are better off without (2 us of 25).
template <int RANKS, bool M_MAJOR, bool FACTOR_K_MAJOR, bool FEW> struct Thin {
    using Activations = SwizzledTile<8>;
    using Right = Factor<RANKS, DEPTH, FACTOR_K_MAJOR>;
    static constexpr int ROWS = 64, CHUNKS = ROWS * DEPTH / 8 / THREADS;
    static_assert(CHUNKS * 8 <= 32, "bits of a thread's chunks");

    struct Stage {
        uint4 left[CHUNKS];
        float right[Right::EACH];
    };

    static __device__ __forceinline__ void load(Stage& stage, const LoraThinJob& p, uint32_t m0, uint32_t r0,
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

    static __device__ __forceinline__ void run(const LoraThinJob& p, uint32_t block, ThinShared<RANKS>& shared) {
        bf16* left = shared.left;
        Right& right = reinterpret_cast<Right&>(shared.right);
        const DropoutParams dropout = of_this_step(p.dropout);
        const uint32_t tiles_m = (p.m + ROWS - 1) / ROWS, tiles_n = (p.n + RANKS - 1) / RANKS;
        const uint32_t m0 = block % tiles_m * ROWS, r0 = block / tiles_m % tiles_n * RANKS, part = block / tiles_m / tiles_n;
        const uint32_t all = (p.k + DEPTH - 1) / DEPTH;
        const uint32_t first = all * part / p.parts, last = all * (part + 1) / p.parts;
        const int warp_row = threadIdx.x / 32 * 16;
        float sum[RANKS / 8][4] = {};
        Stage stage;
        const auto kept = [&](uint32_t step, int i) {
            const int at = threadIdx.x + i * THREADS;
            const uint64_t line = (M_MAJOR ? step * DEPTH : m0) + at / 8, column = (M_MAJOR ? m0 : step * DEPTH) + at % 8 * 8;
            return eight_kept(dropout, line * (M_MAJOR ? p.m : p.k) + column);
        };
        // `drawn` drops of the i-th chunk.
        const auto put = [&](auto drawn) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                const int at = threadIdx.x + i * THREADS;
                store_16(left + Activations::offset(at / 8, at % 8), drawn(stage.left[i], i));
            }
#pragma unroll
            for (int i = 0; i < Right::EACH; i++) right.store(i, stage.right[i], [](int row) { return row; });
            __syncthreads();
        };
        const auto multiply = [&] {
#pragma unroll(RANKS < 64 ? DEPTH / 16 : 1)  // else registers do not suffice
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
        };
        if constexpr (FEW) {
            for (uint32_t step = first; step <= last; step++) {
                uint32_t bits = dropout.threshold == 0 ? UINT32_MAX : 0;
                if (step < last) load(stage, p, m0, r0, step * DEPTH);
#pragma unroll 1
                for (int i = 0; i < CHUNKS && dropout.threshold && step < last; i++) bits |= kept(step, i) << 8 * i;
                if (step > first) multiply();  // the step before
                if (step < last) put([&](uint4 x, int i) { return drop(x, bits >> 8 * i); });
            }
        } else {
            if (first < last) load(stage, p, m0, r0, first * DEPTH);
            for (uint32_t step = first; step < last; step++) {
                put([&](uint4 x, int i) { return dropout.threshold == 0 ? x : drop(x, kept(step, i)); });
                if (step + 1 < last) load(stage, p, m0, r0, (step + 1) * DEPTH);
                multiply();
            }
        }
        const int lane = threadIdx.x % 32, row = m0 + warp_row + lane / 4;
        float* to = p.out ? reinterpret_cast<float*>(p.out) : reinterpret_cast<float*>(p.partials) + (size_t)part * p.m * p.n;
        const bool transposed = p.out && p.transposed;
        const auto m = [&](int i) { return row + i % 4 / 2 * 8; };
        const auto r = [&](int i) { return r0 + i / 4 * 8 + lane % 4 * 2 + i % 2; };
        const auto place = [&](int i) { return to + (transposed ? (size_t)r(i) * p.m + m(i) : (size_t)m(i) * p.n + r(i)); };
        const float scale = p.out ? p.scale : 1.0f;
        float before[RANKS / 2] = {};
        const auto ask = [&](int i) {
            if (p.out && m(i) < p.m && r(i) < p.n) before[i] = *place(i);
        };
        if constexpr (FEW) {  // together: each would else wait for the store before it
#pragma unroll
            for (int i = 0; i < RANKS / 2; i++) ask(i);
        }
#pragma unroll
        for (int i = 0; i < RANKS / 2; i++) {
            if constexpr (!FEW) ask(i);
            if (m(i) < p.m && r(i) < p.n) *place(i) = fmaf(scale, sum[i / 4][i % 4], before[i]);
        }
    }
};

// In their order; AT_ONCE of them are asked for together.
template <uint32_t AT_ONCE>
__device__ __forceinline__ float sum_of_parts(const float* partials, uint32_t count, uint32_t parts) {
    const auto load = [&](uint32_t i) { return partials[(size_t)i * count]; };
    float sum = 0.0f;
    uint32_t first = 0;
    for (; AT_ONCE > 16 && first + AT_ONCE <= parts; first += AT_ONCE) {
        float part[AT_ONCE];
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) part[j] = load(first + j);
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) sum += part[j];
    }
    for (; first < parts; first += 16) {
        float part[16];
#pragma unroll
        for (uint32_t j = 0; j < 16; j++) part[j] = first + j < parts ? load(first + j) : 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < 16; j++) sum += part[j];
    }
    return sum;
}

// out[m, n], or its transpose, = or += scale times the sum of the partial sums, in their order. The blocks behind those
// that this takes make a factor a side of the product that takes it as more of k (gemm_sm90.cu).
template <uint32_t AT_ONCE> __device__ __forceinline__ void sum(const LoraSumParams& p) {
    uint32_t block;
    const LoraSumJob& job = my_job(p, block);
    const uint32_t count = job.m * job.n, blocks = (count + 255) / 256;
    if (block >= blocks) {
        const uint32_t i = (block - blocks) * 256 + threadIdx.x;
        const LoraSideParams& f = job.factor;
        if (i < f.rows * f.rank) side_row(f.side, i, f.rank, f.width, reinterpret_cast<const float*>(f.x)[i], false);
        return;
    }
    const uint32_t i = block * 256 + threadIdx.x;
    if (i >= count) return;
    const uint32_t from = job.transposed ? i % job.m * job.n + i / job.m : i;
    const float sum = sum_of_parts<AT_ONCE>(reinterpret_cast<const float*>(job.partials) + from, count, job.parts);
    float* out = reinterpret_cast<float*>(job.out) + i;
    *out = job.accumulate ? fmaf(job.scale, sum, *out) : job.scale * sum;
    if (job.side) side_row(job.side, i, job.n, job.width, job.side_scale * *out, true);
}

SMALL_KERNEL(lora_sum, LoraSumParams, 256) { sum<16>(p); }
// For no more blocks than multiprocessors: then there are as many parts as steps of the sum, and a round of loads is what a block
// takes. Told that two blocks a multiprocessor are enough, the compiler has registers for 64.
SMALL_KERNEL(lora_sum_few, LoraSumParams, 256, 2) { sum<64>(p); }

// y[m, n] += scale * dropout(left[m, rank] . factor): 64 of m by COLUMNS of n a block. A lane holds eight neighbours of a row,
// so that y moves 16 bytes at a time: column 8 t + 2 j + e of 32 is column 2 t + e of the j-th fragment.
template <bool FACTOR_K_MAJOR, int COLUMNS> struct Wide {
    static constexpr int ROWS = 64, RANKS = 16;  // at a time
    using Left = Factor<ROWS, RANKS, true>;
    using Right = Factor<COLUMNS, RANKS, FACTOR_K_MAJOR>;

    static __device__ __forceinline__ int place(int column) {
        return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
    }

    static __device__ __forceinline__ void run(const LoraParams& p, uint32_t block) {
        __shared__ __align__(16) Left left;
        __shared__ __align__(16) Right right;
        const DropoutParams dropout = of_this_step(p.dropout);
        const uint32_t tiles_m = (p.m + ROWS - 1) / ROWS, m0 = block % tiles_m * ROWS, n0 = block / tiles_m * COLUMNS;
        const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
        const auto row = [&](int i) { return m0 + warp_row + lane / 4 + i % 2 * 8; };
        const auto column = [&](int i) { return n0 + i / 2 * 32 + lane % 4 * 8; };
        bf16* y = reinterpret_cast<bf16*>(p.out);
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
        constexpr int EIGHTS = COLUMNS / 32 * 2;
        Packed<bf16> before[EIGHTS];  // asked for together: each would else wait for the store before it
#pragma unroll
        for (int i = 0; i < EIGHTS; i++) {
            if (row(i) < p.m && column(i) < p.n) before[i] = load_packed(y + (size_t)row(i) * p.n + column(i));
        }
#pragma unroll
        for (int i = 0; i < EIGHTS; i++) {
            if (row(i) >= p.m || column(i) >= p.n) continue;
            const uint64_t at = (uint64_t)row(i) * p.n + column(i);
            Eight eight = unpack(before[i]);
            const uint32_t kept = dropout.threshold == 0 ? 0xff
                                                         : dropout_kept(dropout, at / 4) | dropout_kept(dropout, at / 4 + 1) << 4;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (kept >> e & 1) eight.v[e] = fmaf(p.scale, sum[i / 2 * 4 + e / 2][i % 2 * 2 + e % 2], eight.v[e]);
            }
            store_eight(y + at, eight);
        }
    }
};

// s = drop(x) a^T; ds = dy b; db = dy^T s; da^T = drop(x)^T ds. Ranks up to 16, up to 32, and 64 at a time.
template <int RANKS, bool FEW = false> __device__ __forceinline__ void thin(const LoraThinParams& p) {
    __shared__ __align__(16) ThinShared<RANKS> shared;
    let_next_in(RANKS == 16 ? 4 : RANKS == 32 ? 3 : 2);
    uint32_t block;
    const LoraThinJob& job = my_job(p, block);
    switch (job.kind) {
        case KIUNGO_LORA_DOWN: return Thin<RANKS, false, true, FEW>::run(job, block, shared);
        case KIUNGO_LORA_DS: return Thin<RANKS, false, false, FEW>::run(job, block, shared);
        default: return Thin<RANKS, true, false, FEW>::run(job, block, shared);
    }
}
KERNEL(lora_thin_16, LoraThinParams, THREADS, 4) { thin<16>(p); }
KERNEL(lora_thin_16_few, LoraThinParams, THREADS, 4) { thin<16, true>(p); }
KERNEL(lora_thin_32, LoraThinParams, THREADS, 3) { thin<32>(p); }
KERNEL(lora_thin_64, LoraThinParams, THREADS, 2) { thin<64>(p); }

// y += s b^T, each adapter to a y of its own.
template <int COLUMNS> __device__ __forceinline__ void wide_up(const LoraWideParams& p) {
    uint32_t block;
    const LoraWideJob& job = my_job(p, block);
    Wide<true, COLUMNS>::run(job.product, block);
}
// dx += drop'(ds a) of all adapters that read x.
template <int COLUMNS> __device__ __forceinline__ void wide_dx(const LoraWideParams& p) {
    for (uint32_t i = 0; i < KIUNGO_LORA_JOBS && p.jobs[i].blocks; i++) {
        Wide<false, COLUMNS>::run(p.jobs[i].product, blockIdx.x);
    }
}
// In strips of 32 columns where those of 128 are fewer than multiprocessors: a block's time is that of its dropout.
KERNEL(lora_wide_up, LoraWideParams, THREADS) {
    let_next_in(3);
    wide_up<128>(p);
}
KERNEL(lora_wide_up_strips, LoraWideParams, THREADS) {
    let_next_in(3);
    wide_up<32>(p);
}
KERNEL(lora_wide_dx, LoraWideParams, THREADS) {
    let_next_in(3);
    wide_dx<128>(p);
}
KERNEL(lora_wide_dx_strips, LoraWideParams, THREADS) {
    let_next_in(3);
    wide_dx<32>(p);
}
