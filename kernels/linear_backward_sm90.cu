// dx = dy W for an NF4 weight and up to 128 tokens on Hopper's tensor cores, without the weight ever being written out: codes
// become the left side of wgmma in registers, whose rows are inputs, so that what is computed is dx^T; the tokens are the
// right side, in shared memory. What is added up runs across absmax values here, so it is the weight that is scaled: a level
// that is rounded to bf16 times absmax, rounded once.
//
// A warpgroup loads: the copy engine codes and dy, its threads the scales, which they split into two bf16. Warpgroups compute,
// each all 256 inputs of the block and its share of a stage's outputs (for more than 80 tokens, half the inputs and all
// outputs); weights are decoded while the products of the step before are under way. A lane reads four bytes of two outputs,
// which are exchanged to pairs of outputs and looked up: four tiles of 64 rows, of which a lane ends up with eight neighbours.
// Layers of one x are one sum, over the outputs of all.
//
// Blocks take parts of the outputs, whose sums linear_backward.cu adds.
//
// Budget: 240 registers a thread, up to 160 of them for sums, 32 for two steps' fragments. 64 KB of shared memory for the table, the
// rest for stages: one block a multiprocessor.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/nf4_columns.cuh"
#include "tile/nf4_pairs.cuh"
#include "tile/nf4_parts.cuh"
#include "tile/operand.cuh"

constexpr int INPUTS = 256;  // of the weight a stage
constexpr int BLOCKS = INPUTS / KIUNGO_NF4_BLOCK, TILES = INPUTS / 64;

// The scales of an output's blocks as they are in memory, on their way to the thread that loads them; zero beyond the weight.
template <bool DOUBLE> struct Scales {
    float absmax[BLOCKS];

    __device__ __forceinline__ void load(const Nf4LinearParams& p, uint32_t output, uint32_t block0) {
        const uint32_t width = p.k / KIUNGO_NF4_BLOCK;
        const float* from = reinterpret_cast<const float*>(p.absmax) + (size_t)output * width + block0;
#pragma unroll
        for (uint32_t i = 0; i < BLOCKS; i++) absmax[i] = output < p.n && block0 + i < width ? __ldg(from + i) : 0.0f;
    }
    __device__ __forceinline__ float get(const Nf4LinearParams&, int block) const { return absmax[block]; }
};
template <> struct Scales<true> {
    uint32_t codes;
    float absmax, offset;  // p.k is a multiple of 256, so that the four blocks share them

    __device__ __forceinline__ void load(const Nf4LinearParams& p, uint32_t output, uint32_t block0) {
        const bool inside = output < p.n;
        const size_t at = inside ? (size_t)output * (p.k / KIUNGO_NF4_BLOCK) + block0 : 0;
        codes = __ldg(reinterpret_cast<const uint32_t*>(p.scale_codes + at));
        absmax = inside ? __ldg(reinterpret_cast<const float*>(p.absmax) + at / KIUNGO_NF4_NESTED_BLOCK) : 0.0f;
        offset = inside ? __ldg(reinterpret_cast<const float*>(p.offset)) : 0.0f;
    }
    __device__ __forceinline__ float get(const Nf4LinearParams& p, int block) const {
        const float scale = __ldg(reinterpret_cast<const float*>(p.map) + (codes >> block * 8 & 255));
        return __fadd_rn(__fmul_rn(scale, absmax), offset);
    }
};

// DEEP warpgroups share a stage's OUTPUTS, times ACROSS its inputs.
template <int TOKENS, int OUTPUTS, int STAGES, int DEEP, int ACROSS, bool DOUBLE> struct Nf4Backward {
    static constexpr int CONSUMERS = 128 * DEEP * ACROSS;
    static constexpr int MINE = OUTPUTS / DEEP, STEPS = MINE / 16, MY_TILES = TILES / ACROSS;
    static constexpr int ADDED = TOKENS <= 64 ? TOKENS : TOKENS / 2;  // tokens whose sums are added up at once
    // A warpgroup's products, and its part of the left side for one step.
    using Sums = float[MY_TILES][TOKENS / 2];
    using Fragments = uint32_t[MY_TILES][4];
    using Dy = OperandTile<TOKENS, true>;
    using Table = PairTable<uint32_t>;
    static constexpr int LINE = INPUTS + 4;  // floats a token while sums are added up, so that lanes use all banks
    struct alignas(1024) Stage {
        uint8_t codes[OUTPUTS][INPUTS / 2];  // 16-byte chunks swizzled
        bf16 dy[OUTPUTS / Dy::DEPTH][Dy::ELEMENTS];
        uint32_t scales[BLOCKS][OUTPUTS];  // as two bf16: high in the lower half, and low
    };
    static_assert(STEPS % 2 == 0 && OUTPUTS <= 128, "fragments take turns; a thread that loads has an output");
    // Shared memory: some stages, the table at the next multiple of 64 KB, the other stages, and what is small. After the
    // last stage, sums are in the other stages' place.
    struct Small {
        Barrier full[STAGES], empty[STAGES];
    };
    struct Shared {
        static constexpr uint32_t FIRST = Table::BELOW / sizeof(Stage), ABOVE = Table::BELOW + Table::BYTES;
        static constexpr uint32_t LATER = STAGES - FIRST;
        static_assert(STAGES > FIRST && ADDED * LINE * sizeof(float) <= LATER * sizeof(Stage), "the sums take the stages' place");
        unsigned char* memory;
        Table table;

        __device__ __forceinline__ explicit Shared(unsigned char* memory) : memory(memory), table(memory) {
            Table::check(memory);
        }
        __device__ __forceinline__ Stage& stage(uint32_t i) const {
            const uint32_t at = i < FIRST ? i * sizeof(Stage) : ABOVE + (i - FIRST) * sizeof(Stage);
            return *reinterpret_cast<Stage*>(memory + at);
        }
        __device__ __forceinline__ Small& small() const {
            return *reinterpret_cast<Small*>(memory + ABOVE + LATER * sizeof(Stage));
        }
        __device__ __forceinline__ float* sums() const { return reinterpret_cast<float*>(memory + ABOVE); }
    };

    // One thread asks for a stage's codes.
    static __device__ __forceinline__ void load_codes(const Nf4BackwardSm90Params& p, Stage& stage, Barrier* full,
                                                      uint32_t input0, const LayerStage& at) {
        barrier_arrive_expecting(full, sizeof(stage.codes) + sizeof(stage.dy));
        tma_load(stage.codes, &p.codes[at.layer], input0 / 4, at.step * OUTPUTS, full);
    }

    // A warpgroup: loads this block's stages, a thread an output's scales, the next stage's before it stores this one's. The
    // launch before may still run: it makes dy, and no launch near makes weights, so these are asked for before the wait.
    static __device__ __forceinline__ void load(const Nf4BackwardSm90Params& p, const Shared& shared, uint32_t input0, int first,
                                                int steps) {
        const bool leads = threadIdx.x == CONSUMERS;
        const uint32_t mine = threadIdx.x % 128, block0 = input0 / KIUNGO_NF4_BLOCK;
        const int ahead = min(steps, STAGES);
        LayerStage place(p, first);
        Scales<DOUBLE> next;
        next.load(p.layers[place.layer], place.step * OUTPUTS + mine, block0);
        if (leads) {
            LayerStage at(p, first);
            for (int i = 0; i < ahead; i++, at.advance(p)) load_codes(p, shared.stage(i), &shared.small().full[i], input0, at);
        }
        wait_for_launch();
        Ring<STAGES> at;
        for (int i = 0; i < steps; i++, at.advance()) {
            Stage& stage = shared.stage(at.stage);
            Barrier* full = &shared.small().full[at.stage];
            const LayerStage now = place;
            place.advance(p);
            const Scales<DOUBLE> scales = next;
            if (i + 1 < steps) next.load(p.layers[place.layer], place.step * OUTPUTS + mine, block0);
            barrier_wait(&shared.small().empty[at.stage], at.parity ^ 1);
            if (leads) {
                if (i >= ahead) load_codes(p, stage, full, input0, now);
#pragma unroll
                for (int half = 0; half < OUTPUTS / Dy::DEPTH; half++) {
                    Dy::template load<1>(stage.dy[half], &p.dy[now.layer], 0, now.step * OUTPUTS + half * Dy::DEPTH, full, 0);
                }
            }
#pragma unroll
            for (int block = 0; mine < OUTPUTS && block < BLOCKS; block++) {
                const float scale = scales.get(p.layers[now.layer], block);
                const float high = __bfloat162float(__float2bfloat16(scale));
                stage.scales[block][mine] = pack(high, scale - high);
            }
            barrier_arrive(full);
        }
    }

    // The 16 outputs from `output` on, a multiple of 16, as the fragments of tiles from FIRST on.
    template <int FIRST>
    static __device__ __forceinline__ void decode(Fragments& a, const typename Table::Look& look, const Stage& stage,
                                                  uint32_t output) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, word = warp * 8 + lane / 4;
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t line = output + half * 8 + lane % 4 * 2;
            const auto codes = [&](uint32_t line) {
                const uint8_t* chunk = stage.codes[line] + (word / 4 ^ line % 8) * 16;
                return *reinterpret_cast<const uint32_t*>(chunk + word % 4 * 4);
            };
            const ColumnPairs pairs(codes(line), codes(line + 1));
            const ScalePair scale(*reinterpret_cast<const uint2*>(&stage.scales[warp][line]));
#pragma unroll
            for (int tile = 0; tile < MY_TILES; tile++) {
                a[tile][half * 2] = scale.times(look.pair(pairs.even, FIRST + tile));
                a[tile][half * 2 + 1] = scale.times(look.pair(pairs.odd, FIRST + tile));
            }
        }
    }

    static __device__ __forceinline__ void multiply(Sums& sums, const Fragments& a, uint64_t dy) {
        wgmma_begin();
#pragma unroll
        for (int tile = 0; tile < MY_TILES; tile++) wgmma_registers<TOKENS, true>(sums[tile], a[tile], dy, true);
        wgmma_commit();
    }

    static __device__ __forceinline__ void wait(Sums& sums, Fragments& a) {
        wgmma_wait<0>();
#pragma unroll
        for (int tile = 0; tile < MY_TILES; tile++) {
            keep(sums[tile]);
#pragma unroll
            for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[tile][i]));
        }
    }

    // Warpgroup WHICH's part: of each stage, MINE outputs, and of these MY_TILES tiles of inputs.
    template <int WHICH>
    static __device__ __forceinline__ void compute(const Shared& shared, Sums& sums, int steps) {
        constexpr int BEGIN = WHICH / ACROSS % DEEP * MINE, FIRST = WHICH % ACROSS * MY_TILES;
        const typename Table::Look look(shared.table, 0);
        Fragments a[2];
        Ring<STAGES> at;
        uint32_t before = 0;
        for (int step = 0; step < steps; step++, at.advance()) {
            const Stage& stage = shared.stage(at.stage);
            barrier_wait(&shared.small().full[at.stage], at.parity);
            const uint64_t dy = Dy::descriptor(stage.dy[BEGIN / Dy::DEPTH], 0, BEGIN % Dy::DEPTH);
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
                decode<FIRST>(a[i % 2], look, stage, BEGIN + i * 16);
                if (i > 0 || step > 0) wait(sums, a[(i + 1) % 2]);
                if (i == 0 && step > 0 && threadIdx.x % 32 == 0) barrier_arrive(&shared.small().empty[before]);
                multiply(sums, a[i % 2], Dy::further(dy, i * 16 / Dy::DEPTH * Dy::BYTES + i * 16 % Dy::DEPTH * sizeof(bf16)));
            }
            before = at.stage;
        }
        wait(sums, a[1]);
    }

    static __device__ __forceinline__ void run(const Nf4BackwardSm90Params& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        const Shared shared(memory);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(&shared.small().full[i], 1 + 128);
                barrier_init(&shared.small().empty[i], CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        const uint32_t part = blockIdx.x, input0 = blockIdx.y * INPUTS;
        const int all = p.steps[0] + p.steps[1] + p.steps[2], first = all * part / gridDim.x;
        const int steps = all * (part + 1) / gridDim.x - first;
        if (threadIdx.x >= CONSUMERS) {
            fewer_registers<24>();
            load(p, shared, input0, first, steps);
            return;
        }
        more_registers<240>();
        shared.table.fill(threadIdx.x, CONSUMERS);
        named_barrier(1, CONSUMERS);
        Sums sums = {};
        // Known to the compiler, so that addresses are made once a stage.
        const int which = threadIdx.x / 128;
        if (which == 0) compute<0>(shared, sums, steps);
        if (which == 1) compute<1>(shared, sums, steps);
#pragma unroll
        for (int token = 0; token < TOKENS; token += ADDED) add_up(p.backward, shared, sums, part, input0, token);
    }

    // ADDED tokens from `token0` on: the sums of all warpgroups in order, to dx or where there are several parts to the workspace.
    static __device__ __forceinline__ void add_up(const Nf4BackwardParams& p, const Shared& shared, const Sums& sums,
                                                  uint32_t part, uint32_t input0, int token0) {
        const uint32_t lane = threadIdx.x % 32, input = threadIdx.x / 32 % 4 * 64 + lane / 4 * 8;
        const int which = threadIdx.x / 128;
        float* all = shared.sums();
#pragma unroll
        for (int deep = DEEP - 1; deep >= 0; deep--) {
            named_barrier(1, CONSUMERS);
            if (which / ACROSS != deep) continue;
#pragma unroll
            for (int i = 0; i < ADDED / 4; i++) {
                float* to = all + (i / 2 * 8 + lane % 4 * 2 + i % 2) * LINE + input;
                const int at = token0 / 2 + i / 2 * 4 + i % 2;
#pragma unroll
                for (int tile = 0; tile < MY_TILES; tile++) {
                    float2* two = reinterpret_cast<float2*>(to) + which % ACROSS * MY_TILES + tile;
                    const float2 old = deep == DEEP - 1 ? make_float2(0.0f, 0.0f) : *two;
                    *two = make_float2(sums[tile][at] + old.x, sums[tile][at + 2] + old.y);
                }
            }
        }
        named_barrier(1, CONSUMERS);
        const uint32_t inputs = p.linear.k;
        const int tokens = min((int)p.linear.m - token0, ADDED);
        for (int i = threadIdx.x; i < tokens * (INPUTS / 4); i += CONSUMERS) {
            const uint32_t token = i / (INPUTS / 4), input = input0 + i % (INPUTS / 4) * 4;
            if (input >= inputs) continue;
            store_part(p, part, token0 + token, input, *reinterpret_cast<const float4*>(all + token * LINE + input - input0));
        }
    }
};

// Up to so many tokens. linear/fused/backward.rs knows a stage's outputs, the stages and the threads.
#define LINEAR_BACKWARD_NF4(tokens, outputs, stages, deep, across)                                                   \
    KERNEL_AHEAD(linear_backward_sm90_nf4_##tokens, Nf4BackwardSm90Params, 128 * deep * across + 128, 1) {           \
        Nf4Backward<tokens, outputs, stages, deep, across, false>::run(p);                                           \
    }                                                                                                                \
    KERNEL_AHEAD(linear_backward_sm90_nf4_double_##tokens, Nf4BackwardSm90Params, 128 * deep * across + 128, 1) {    \
        Nf4Backward<tokens, outputs, stages, deep, across, true>::run(p);                                            \
    }
LINEAR_BACKWARD_NF4(64, 128, 3, 2, 1)
LINEAR_BACKWARD_NF4(80, 128, 3, 2, 1)
LINEAR_BACKWARD_NF4(96, 64, 6, 1, 2)
LINEAR_BACKWARD_NF4(128, 64, 5, 1, 2)
