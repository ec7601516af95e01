// y = x W^T for an NF4 weight and few tokens, without the weight ever being written out: codes become bf16 fragments in
// registers, by a table of all 256 pairs of codes, and go straight to the tensor cores (mma.sync). The weight is the left
// operand, 16 of its rows a warp; the tokens are the right one, eight at a time. A block's absmax is applied to the sums
// over its 64 inputs, in float.
//
// Any order of k will do that is the same for both operands: each of the four lanes of a row takes 16 neighbours of a
// block, so that it reads 8 bytes of codes and 32 of x at once.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "tile/nf4.cuh"
#include "tile/store.cuh"
#include "tile/vector.cuh"

constexpr int ROWS = 128, DEPTH = 256;  // of the weight a stage
constexpr int BLOCKS = DEPTH / KIUNGO_NF4_BLOCK;
constexpr int THREADS = 512;  // eight groups of 16 rows by two halves of the depth

// Both values of a byte of codes as bf16, the first in the low half; a copy for each lane, so that no two lanes read the
// same bank.
struct PairTable {
    uint32_t pairs[256][32];

    // Called by every thread of the block; a barrier must follow.
    __device__ __forceinline__ void fill() {
        for (int i = threadIdx.x; i < 256 * 32; i += THREADS) {
            const int byte = i / 32;
            pairs[byte][i % 32] = pack(NF4_LEVELS[byte / 16], NF4_LEVELS[byte % 16]);
        }
    }
};

// The absmax of four blocks of a row, one after the other, as they are in memory.
template <bool DOUBLE> struct Scales;
template <> struct Scales<false> {
    float absmax[ROWS][BLOCKS];

    __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t block0) {
        const uint32_t row = threadIdx.x / BLOCKS, block = threadIdx.x % BLOCKS;
        const bool inside = row0 + row < p.n && block0 + block < p.k / KIUNGO_NF4_BLOCK;
        const float* all = reinterpret_cast<const float*>(p.absmax);
        const size_t at = (size_t)(row0 + row) * (p.k / KIUNGO_NF4_BLOCK) + block0 + block;
        cp_async_4(&absmax[row][block], inside ? all + at : all, inside ? 4 : 0);
    }
    __device__ __forceinline__ float get(int row, int block, const float*, float) const { return absmax[row][block]; }
};
template <> struct Scales<true> {
    uint8_t codes[ROWS][BLOCKS];
    float absmax[ROWS];  // p.k is a multiple of 256, so that four blocks of a row share one

    __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t block0) {
        const uint32_t row = threadIdx.x % ROWS;
        const bool inside = row0 + row < p.n;
        const size_t at = inside ? (size_t)(row0 + row) * (p.k / KIUNGO_NF4_BLOCK) + block0 : 0;
        if (threadIdx.x < ROWS) {
            cp_async_4(codes[row], reinterpret_cast<const uint8_t*>(p.scale_codes) + at, inside ? 4 : 0);
        } else if (threadIdx.x < 2 * ROWS) {
            const float* all = reinterpret_cast<const float*>(p.absmax);
            cp_async_4(&absmax[row], all + at / KIUNGO_NF4_NESTED_BLOCK, inside ? 4 : 0);
        }
    }
    __device__ __forceinline__ float get(int row, int block, const float* map, float offset) const {
        return __fadd_rn(__fmul_rn(map[codes[row][block]], absmax[row]), offset);
    }
};

template <int TOKENS, bool DOUBLE> struct Stage {
    uint8_t codes[ROWS][DEPTH / 2];  // 16-byte chunks swizzled
    bf16 x[TOKENS][DEPTH];           // likewise
    Scales<DOUBLE> scales;

    __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t k0) {
        constexpr int CHUNKS = DEPTH / 2 / 16, X_CHUNKS = DEPTH / 8;
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
            const uint32_t row = i / CHUNKS, chunk = i % CHUNKS;
            const bool inside = row0 + row < p.n && k0 + chunk * 32 < p.k;
            const uint8_t* all = reinterpret_cast<const uint8_t*>(p.codes);
            const size_t at = ((size_t)(row0 + row) * p.k + k0) / 2 + chunk * 16;
            cp_async_16(&codes[row][(chunk ^ row % 8) * 16], inside ? all + at : all, inside ? 16 : 0);
        }
#pragma unroll
        for (int i = threadIdx.x; i < TOKENS * X_CHUNKS; i += THREADS) {
            const uint32_t token = i / X_CHUNKS, chunk = i % X_CHUNKS;
            const bool inside = token < p.m && k0 + chunk * 8 < p.k;
            const bf16* all = reinterpret_cast<const bf16*>(p.x);
            const size_t at = (size_t)token * p.k + k0 + chunk * 8;
            cp_async_16(&x[token][(chunk ^ token % 8) * 8], inside ? all + at : all, inside ? 16 : 0);
        }
        scales.copy(p, row0, k0 / KIUNGO_NF4_BLOCK);
    }
};

template <int TOKENS, int STAGES, bool DOUBLE> struct Nf4Linear {
    struct Shared {
        PairTable table;
        float map[256];
        Stage<TOKENS, DOUBLE> stages[STAGES];
    };
    static constexpr int TILES = TOKENS / 8;
    static constexpr int LINE = ROWS + 4;  // floats a token while the halves are added up, so that lanes use all banks

    // Adds what one block of 64 inputs gives to a warp's sums: two rows, their codes and their scales.
    static __device__ __forceinline__ void add_block(float (&total)[TILES][4], const Shared& shared,
                                                     const Stage<TOKENS, DOUBLE>& stage, int block, uint2 low, uint2 high,
                                                     float of_low, float of_high) {
        const int lane = threadIdx.x % 32, token = lane / 4, quarter = lane % 4;
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t of_low = i < 4 ? low.x : low.y, of_high = i < 4 ? high.x : high.y;
            a[i / 2][i % 2 * 2] = shared.table.pairs[of_low >> i % 4 * 8 & 255][lane];
            a[i / 2][i % 2 * 2 + 1] = shared.table.pairs[of_high >> i % 4 * 8 & 255][lane];
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int chunk = block * 8 + quarter * 2;
            const bf16* x = stage.x[tile * 8 + token];
            const uint4 first = load_16(x + (chunk ^ token) * 8), second = load_16(x + ((chunk + 1) ^ token) * 8);
            const uint32_t b[4][2] = {{first.x, first.y}, {first.z, first.w}, {second.x, second.y}, {second.z, second.w}};
            float sum[4] = {};
#pragma unroll
            for (int step = 0; step < 4; step++) mma_m16n8k16_bf16(sum, a[step], b[step]);
#pragma unroll
            for (int i = 0; i < 4; i++) total[tile][i] = fmaf(i < 2 ? of_low : of_high, sum[i], total[tile][i]);
        }
    }

    static __device__ __forceinline__ void run(const Nf4LinearParams& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        Shared& shared = *reinterpret_cast<Shared*>(memory);
        const uint32_t row0 = blockIdx.x * ROWS;
        const int steps = (p.k + DEPTH - 1) / DEPTH;
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) shared.stages[step].copy(p, row0, step * DEPTH);
            cp_async_commit();
        }
        shared.table.fill();
        const float offset = DOUBLE ? *reinterpret_cast<const float*>(p.offset) : 0.0f;
        if (DOUBLE && threadIdx.x < 256) shared.map[threadIdx.x] = reinterpret_cast<const float*>(p.map)[threadIdx.x];

        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
        // Rows two apart for neighbouring groups: their swizzled chunks lie on different banks.
        const int row = warp % 8 * 16 + group % 4 * 2 + group / 4, half = warp / 8;
        float total[TILES][4] = {};
        for (int step = 0; step < steps; step++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();  // all see this stage, and all have done with the one before, which is filled next
            if (step + STAGES - 1 < steps) {
                shared.stages[(step + STAGES - 1) % STAGES].copy(p, row0, (step + STAGES - 1) * DEPTH);
            }
            cp_async_commit();
            const Stage<TOKENS, DOUBLE>& stage = shared.stages[step % STAGES];
#pragma unroll
            for (int block = half * 2; block < half * 2 + 2; block++) {
                const int at = ((block * 2 + quarter / 2) ^ row % 8) * 16 + quarter % 2 * 8;
                const uint2 low = *reinterpret_cast<const uint2*>(&stage.codes[row][at]);
                const uint2 high = *reinterpret_cast<const uint2*>(&stage.codes[row + 8][at]);
                add_block(total, shared, stage, block, low, high, stage.scales.get(row, block, shared.map, offset),
                          stage.scales.get(row + 8, block, shared.map, offset));
            }
        }

        // The second half's sums, then both, in the place of the stages; rows of y from there.
        float* sums = reinterpret_cast<float*>(shared.stages);
        static_assert(TOKENS * LINE * sizeof(float) <= sizeof(shared.stages), "the sums take the stages' place");
#pragma unroll
        for (int turn = 1; turn >= 0; turn--) {
            __syncthreads();
            if (half != turn) continue;
#pragma unroll
            for (int i = 0; i < TILES * 4; i++) {
                float* to = sums + (i / 4 * 8 + quarter * 2 + i % 2) * LINE + row + i % 4 / 2 * 8;
                *to = turn == 1 ? total[i / 4][i % 4] : total[i / 4][i % 4] + *to;
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < min(p.m, (uint32_t)TOKENS) * (ROWS / 2); i += THREADS) {
            const uint32_t token = i / (ROWS / 2), column = i % (ROWS / 2) * 2;
            const Row<bf16> y{reinterpret_cast<bf16*>(p.y) + (size_t)token * p.n, p.n, false};
            y.store(row0 + column, sums[token * LINE + column], sums[token * LINE + column + 1]);
        }
    }
};

// Up to so many tokens; up to eight: linear_few.cu. linear/fused/sm80.rs knows the stages.
#define LINEAR_NF4(tokens, stages)                                                                                  \
    KERNEL(linear_nf4_##tokens, Nf4LinearParams, THREADS, 1) { Nf4Linear<tokens, stages, false>::run(p); }          \
    KERNEL(linear_nf4_double_##tokens, Nf4LinearParams, THREADS, 1) { Nf4Linear<tokens, stages, true>::run(p); }
LINEAR_NF4(16, 4)
LINEAR_NF4(32, 3)
