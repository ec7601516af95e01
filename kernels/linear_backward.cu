// dx = dy W for an NF4 weight and few tokens, without the weight ever being written out: codes become bf16 fragments in
// registers and go straight to the tensor cores (mma.sync). The weight is the left operand, whose rows are inputs, so that what
// is computed is dx^T; the tokens are the right one, eight at a time.
//
// What is added up runs across absmax values here. A warp has the 64 inputs of one absmax and scales the tokens by it, so that
// levels are used as they are: a product for each token and output, not for each weight.
//
// A lane takes four outputs of every 16, and of each the eight inputs of a word of codes: the order of both is free, if it is
// the same on both sides. Two words of two outputs are exchanged to pairs of outputs before they are looked up.
//
// Blocks take parts of the outputs, one a multiprocessor, and leave f32 sums, which a second kernel adds in order. Clusters that
// add through shared memory do not all find a place at once: six blocks each do, on 96 multiprocessors, and take 20.4 us for 18.3
// (one token, 14336 x 4096, H100). Nor may too many copies be under way, for look-ups queue behind them: 21.9 us with 96 KB.
//
// Budget: 128 registers a thread and half of shared memory, so that two blocks share a multiprocessor; one with 64 tokens.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "tile/nf4.cuh"
#include "tile/nf4_columns.cuh"
#include "tile/nf4_parts.cuh"
#include "tile/vector.cuh"

constexpr int INPUTS = 256, OUTPUTS = 64;  // of the weight a stage
constexpr int THREADS = 256, ACROSS = INPUTS / KIUNGO_NF4_BLOCK;
constexpr int MINE = OUTPUTS / (THREADS / 32 / ACROSS);  // outputs of a stage that a warp takes
constexpr uint32_t LINE = INPUTS / 2;                    // bytes of codes

// Both values of a byte of codes as bf16, the first in the low half; a copy for each lane, so that no two lanes read the same
// bank. Half of a line is unused, so that one instruction puts an address together: a byte of it the lane's, a byte the codes.
struct PairTable {
    uint32_t pairs[256][64];

    // Called by every thread of the block; a barrier must follow.
    __device__ __forceinline__ void fill() {
        const uint32_t lane = threadIdx.x % 32;
        const float mine = NF4_LEVELS[lane % 16];
        for (uint32_t byte = threadIdx.x / 32; byte < 256; byte += THREADS / 32) {
            const float first = __shfl_sync(0xffffffff, mine, byte / 16), second = __shfl_sync(0xffffffff, mine, byte % 16);
            pairs[byte][lane] = pack(first, second);
        }
    }

    struct Look {
#if defined(KIUNGO_EMULATOR) || __CUDA_ARCH__ < 900
        const PairTable& table;
        __device__ __forceinline__ explicit Look(const PairTable& table) : table(table) {}
        __device__ __forceinline__ uint32_t pair(uint32_t word, int which) const {
            return table.pairs[word >> which * 8 & 255][threadIdx.x % 32];
        }
#else
        // The table is where dynamic shared memory begins, and on Hopper the system keeps the first KB. An address there also
        // says in whose shared memory of a cluster it is, in its upper half.
        uint32_t lane;
        __device__ __forceinline__ explicit Look(const PairTable& table) {
            const uint32_t begin = static_cast<uint32_t>(__cvta_generic_to_shared(table.pairs));
            if ((begin & 0xffff) != 1024) __trap();
            lane = (begin & 0xffff0000u) | threadIdx.x % 32 * 4;
        }
        __device__ __forceinline__ uint32_t pair(uint32_t word, int which) const {
            uint32_t pair;
            // Not volatile: what it depends on comes after the barrier.
            asm("ld.shared.u32 %0, [%1+1024];" : "=r"(pair) : "r"(__byte_perm(word, lane, 0x7604 | which << 4)));
            return pair;
        }
#endif
    };
};

// The absmax of a stage, and where a thread's next ones are in memory. `left`: outputs from the stage's first on.
template <bool DOUBLE> struct Scales;
template <> struct Scales<false> {
    float absmax[ACROSS][OUTPUTS + 8];  // so that four blocks lie on different banks

    struct From {
        const float* next;
        uint32_t step;
        bool inside;
        __device__ __forceinline__ From(const Nf4LinearParams& p, uint32_t output0, uint32_t input0) {
            const uint32_t width = p.k / KIUNGO_NF4_BLOCK, block = input0 / KIUNGO_NF4_BLOCK + threadIdx.x % ACROSS;
            next = reinterpret_cast<const float*>(p.absmax) + (size_t)(output0 + threadIdx.x / ACROSS) * width + block;
            step = OUTPUTS * width;
            inside = block < width;
        }
    };
    static_assert(THREADS == OUTPUTS * ACROSS, "one a thread");
    __device__ __forceinline__ void copy(From& from, int left) {
        const int output = threadIdx.x / ACROSS;
        cp_async_4(&absmax[threadIdx.x % ACROSS][output], from.next, from.inside && output < left ? 4 : 0);
        from.next += from.step;
    }
    // Of four outputs, from a multiple of four on.
    __device__ __forceinline__ void get(float (&scale)[4], uint32_t output, uint32_t block, const float*, float) const {
        const uint4 four = load_16(&absmax[block][output]);
        scale[0] = __uint_as_float(four.x), scale[1] = __uint_as_float(four.y);
        scale[2] = __uint_as_float(four.z), scale[3] = __uint_as_float(four.w);
    }
};
template <> struct Scales<true> {
    uint8_t codes[OUTPUTS][ACROSS];
    float absmax[OUTPUTS];  // p.k is a multiple of 256, so that the four blocks share one

    struct From {
        const uint8_t* codes;
        const float* absmax;
        uint32_t next, step;  // of the blocks of all outputs
        __device__ __forceinline__ From(const Nf4LinearParams& p, uint32_t output0, uint32_t input0) {
            codes = reinterpret_cast<const uint8_t*>(p.scale_codes);
            absmax = reinterpret_cast<const float*>(p.absmax);
            next = ((output0 + threadIdx.x % OUTPUTS) * p.k + input0) / KIUNGO_NF4_BLOCK;
            step = OUTPUTS * (p.k / KIUNGO_NF4_BLOCK);
        }
    };
    __device__ __forceinline__ void copy(From& from, int left) {
        const int output = threadIdx.x % OUTPUTS;
        const uint32_t bytes = output < left ? 4 : 0;
        if (threadIdx.x < OUTPUTS) {
            cp_async_4(codes[output], from.codes + from.next, bytes);
        } else if (threadIdx.x < 2 * OUTPUTS) {
            cp_async_4(&absmax[output], from.absmax + from.next / KIUNGO_NF4_NESTED_BLOCK, bytes);
        }
        from.next += from.step;
    }
    __device__ __forceinline__ void get(float (&scale)[4], uint32_t output, uint32_t block, const float* map,
                                        float offset) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scale[i] = __fadd_rn(__fmul_rn(map[codes[output + i][block]], absmax[output + i]), offset);
        }
    }
};

template <int TOKENS, int STAGES, bool DOUBLE> struct Nf4Backward {
    static constexpr int TILES = TOKENS / 8;
    static constexpr int DY_LINE = OUTPUTS + 16;   // elements a token: an odd number of 32 bytes, so that lanes use all banks
    static constexpr int SUMS_LINE = INPUTS + 4;   // likewise
    struct Stage {
        uint8_t codes[OUTPUTS][LINE];  // pieces of 32 bytes, which are a warp's, swizzled
        bf16 dy[TOKENS][DY_LINE];
        Scales<DOUBLE> scales;
    };
    struct Shared {
        PairTable table;
        float map[256];
        union {
            Stage stages[STAGES];
            float sums[TOKENS][SUMS_LINE];
        };
    };
    // Of two inputs and two tokens each: four times two inputs, TILES times eight tokens.
    using Sums = float[4][TILES][4];

    // What a thread copies of every stage, and where the next one's lies.
    struct Copy {
        static constexpr int CHUNKS = LINE / 16, ROWS = THREADS / CHUNKS;          // of codes at once
        static constexpr int DY_CHUNKS = OUTPUTS / 8, DY_ROWS = THREADS / DY_CHUNKS;  // tokens at once
        static_assert(ROWS % 16 == 0, "a thread's rows are swizzled alike");
        const uint8_t* codes;
        const bf16* dy;
        typename Scales<DOUBLE>::From scales;
        size_t codes_step, dy_step;
        uint32_t to, dy_to;
        int left;  // outputs of the weight from the next stage on
        int tokens;
        bool inside;

        __device__ __forceinline__ Copy(const Nf4LinearParams& p, uint32_t output0, uint32_t input0)
            : scales(p, output0, input0), left(p.n - output0), tokens(p.m) {
            const uint32_t chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
            codes = reinterpret_cast<const uint8_t*>(p.codes) + ((size_t)(output0 + row) * p.k + input0) / 2 + chunk * 16;
            codes_step = (size_t)ROWS * p.k / 2;
            to = row * LINE + (chunk ^ row / 4 % 4 * 2) * 16;
            inside = input0 + chunk * 32 < p.k;
            const uint32_t token = threadIdx.x / DY_CHUNKS, output = threadIdx.x % DY_CHUNKS * 8;
            dy = reinterpret_cast<const bf16*>(p.x) + (size_t)token * p.n + output0 + output;
            dy_step = (size_t)DY_ROWS * p.n;
            dy_to = token * DY_LINE + output;
        }
        __device__ __forceinline__ void next(Stage& stage) {
            const int row = threadIdx.x / CHUNKS, token = threadIdx.x / DY_CHUNKS, output = threadIdx.x % DY_CHUNKS * 8;
#pragma unroll
            for (int i = 0; i < OUTPUTS / ROWS; i++, codes += codes_step) {
                cp_async_16(stage.codes[i * ROWS] + to, codes, inside && row + i * ROWS < left ? 16 : 0);
            }
            const bf16* from = dy;
#pragma unroll
            for (int i = 0; i < (TOKENS + DY_ROWS - 1) / DY_ROWS; i++, from += dy_step) {
                if (TOKENS % DY_ROWS != 0 && token >= TOKENS) break;
                cp_async_16(stage.dy[i * DY_ROWS] + dy_to, from, token + i * DY_ROWS < tokens && output < left ? 16 : 0);
            }
            dy += OUTPUTS;
            stage.scales.copy(scales, left);
            left -= OUTPUTS;
        }
    };

    // Adds the products of a warp's share of a stage.
    static __device__ __forceinline__ void add_products(Sums& sums, const Stage& stage, const PairTable::Look& look,
                                                        const float* map, float offset) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
        const uint32_t block = warp % ACROSS, at = ((block * 2 + group / 4) ^ quarter * 2) * 16 + group % 4 * 4;
#pragma unroll
        for (int step = 0; step < MINE / 16; step++) {
            const uint32_t output = warp / ACROSS * MINE + step * 16 + quarter * 4;
            const auto codes = [&](int i) { return *reinterpret_cast<const uint32_t*>(&stage.codes[output + i][at]); };
            const ColumnPairs first(codes(0), codes(1)), second(codes(2), codes(3));
            float absmax[4];
            stage.scales.get(absmax, output, block, map, offset);
            const ScalePair scale_first(absmax[0], absmax[1]), scale_second(absmax[2], absmax[3]);
            uint32_t dy[TILES][2];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint2 four = *reinterpret_cast<const uint2*>(&stage.dy[tile * 8 + group][output]);
                dy[tile][0] = scale_first.times(four.x), dy[tile][1] = scale_second.times(four.y);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t w[4] = {look.pair(first.even, i), look.pair(first.odd, i), look.pair(second.even, i),
                                       look.pair(second.odd, i)};
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) mma_m16n8k16_bf16(sums[i][tile], w, dy[tile]);
            }
        }
    }

    static __device__ __forceinline__ void run(const Nf4BackwardParams& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        Shared& shared = *reinterpret_cast<Shared*>(memory);
        const Nf4LinearParams& linear = p.linear;
        const uint32_t part = blockIdx.x, input0 = blockIdx.y * INPUTS;
        const int all = (linear.n + OUTPUTS - 1) / OUTPUTS, begin = all * part / gridDim.x;
        const int steps = all * (part + 1) / gridDim.x - begin;
        Copy copy(linear, begin * OUTPUTS, input0);
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) copy.next(shared.stages[step]);
            cp_async_commit();
        }
        shared.table.fill();
        if (DOUBLE) shared.map[threadIdx.x] = reinterpret_cast<const float*>(linear.map)[threadIdx.x];
        const float offset = DOUBLE ? *reinterpret_cast<const float*>(linear.offset) : 0.0f;
        const PairTable::Look look(shared.table);
        Sums sums = {};
        int now = 0, free = STAGES - 1;
        for (int step = 0; step < steps; step++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();  // all see this stage, and all have done with the one before, which is filled next
            if (step + STAGES - 1 < steps) copy.next(shared.stages[free]);
            cp_async_commit();
            add_products(sums, shared.stages[now], look, shared.map, offset);
            free = now;
            now = now + 1 == STAGES ? 0 : now + 1;
        }
        gather(shared, sums);
        store(p, shared, part, input0);
    }

    // The sums of both halves of a stage's outputs, one after the other, in the place of the stages.
    static __device__ __forceinline__ void gather(Shared& shared, const Sums& sums) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, input = warp % ACROSS * 64 + lane / 4 * 8;
#pragma unroll
        for (int half = OUTPUTS / MINE - 1; half >= 0; half--) {
            __syncthreads();
            if ((int)(warp / ACROSS) != half) continue;
#pragma unroll
            for (int i = 0; i < TILES * 4; i++) {
                const int tile = i / 4, side = i / 2 % 2, pair = i % 2 * 2;  // one of two tokens, four of eight inputs
                float4* to = reinterpret_cast<float4*>(&shared.sums[tile * 8 + lane % 4 * 2 + side][input]) + i % 2;
                float4 sum = make_float4(sums[pair][tile][side], sums[pair][tile][2 + side], sums[pair + 1][tile][side],
                                         sums[pair + 1][tile][2 + side]);
                if (half < OUTPUTS / MINE - 1) {
                    const float4 old = *to;
                    sum.x += old.x, sum.y += old.y, sum.z += old.z, sum.w += old.w;
                }
                *to = sum;
            }
        }
        __syncthreads();
    }

    static __device__ __forceinline__ void store(const Nf4BackwardParams& p, const Shared& shared, uint32_t part,
                                                 uint32_t input0) {
        const uint32_t tokens = min(p.linear.m, (uint32_t)TOKENS), inputs = p.linear.k;
        for (uint32_t i = threadIdx.x; i < tokens * (INPUTS / 4); i += THREADS) {
            const uint32_t token = i / (INPUTS / 4), input = input0 + i % (INPUTS / 4) * 4;
            if (input >= inputs) continue;
            const float4 sum = *reinterpret_cast<const float4*>(&shared.sums[token][input - input0]);
            store_part(p, part, token, input, sum);
        }
    }
};

// Up to so many tokens. linear/fused/backward.rs knows the stages.
#define LINEAR_BACKWARD_NF4(tokens, stages, blocks)                                     \
    KERNEL(linear_backward_nf4_##tokens, Nf4BackwardParams, THREADS, blocks) {          \
        Nf4Backward<tokens, stages, false>::run(p);                                     \
    }                                                                                   \
    KERNEL(linear_backward_nf4_double_##tokens, Nf4BackwardParams, THREADS, blocks) {   \
        Nf4Backward<tokens, stages, true>::run(p);                                      \
    }
LINEAR_BACKWARD_NF4(8, 4, 2)
LINEAR_BACKWARD_NF4(16, 4, 2)
LINEAR_BACKWARD_NF4(32, 3, 2)
LINEAR_BACKWARD_NF4(64, 4, 1)

// dx of all parts, in order; four inputs a thread.
SMALL_KERNEL(linear_backward_sum, Nf4BackwardParams, 128) {
    constexpr uint32_t AT_ONCE = 8;
    const size_t count = (size_t)p.linear.m * p.linear.k, i = ((size_t)blockIdx.x * 128 + threadIdx.x) * 4;
    if (i >= count) return;
    const float* parts = reinterpret_cast<const float*>(p.parts) + i;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (uint32_t first = 0; first < p.count; first += AT_ONCE) {
        float4 part[AT_ONCE];
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            if (first + j < p.count) part[j] = *reinterpret_cast<const float4*>(parts + (first + j) * count);
        }
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            if (first + j < p.count) sum.x += part[j].x, sum.y += part[j].y, sum.z += part[j].z, sum.w += part[j].w;
        }
    }
    store_four(reinterpret_cast<bf16*>(p.linear.y) + i, sum, p.accumulate != 0);
}
