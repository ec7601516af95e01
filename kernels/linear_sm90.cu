// y = x W^T for an NF4 weight and few tokens on Hopper's tensor cores, without the weight ever being written out: codes
// become the left side of wgmma in registers, by a table of all 256 pairs of codes; the tokens are the right side, in
// shared memory. A block's absmax is applied to the sums over its 64 inputs, in float.
//
// One thread loads: the copy engine fills a ring of stages of 128 rows by 256 inputs, or by 128 for more than 64 tokens.
// Warpgroups compute, each 64 of the rows and its share of a stage's blocks of inputs; codes are decoded while the products of the block before are
// under way. A lane's pairs lie eight inputs apart, from one register of its fragment to the next. Up to 16 tokens are stored
// so that those are neighbours among the codes, and a lane reads its four bytes alone: the order of k is free, if it is the
// same for both sides. With more tokens the copy engine loads them as they are; then the four lanes of a row read the same
// 16 bytes and each takes its own byte of each word.
//
// Budget: 112 registers a thread where four warpgroups compute, two for each half of the rows; 128 tokens need more (64 for
// the sums of a block, 64 for all blocks', 32 for two blocks' fragments), so that two do, from 32 tokens on. 64 KB of shared memory for the
// table, the rest for stages: one block a multiprocessor.
#include "kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/nf4_operand.cuh"
#include "tile/operand.cuh"
#include "tile/store.cuh"

constexpr int ROWS = 128, BLOCK = KIUNGO_NF4_BLOCK;  // of the weight

// A stage has ROWS rows and DEPTH inputs; DEEP warpgroups for the same rows share its blocks.
template <int TOKENS, int DEPTH, int STAGES, int DEEP, bool DOUBLE> struct Nf4Linear {
    static constexpr int BLOCKS = DEPTH / BLOCK;
    static constexpr int CONSUMERS = ROWS / 64 * 128 * DEEP;
    static constexpr int MINE = BLOCKS / DEEP;
    static constexpr bool REORDERED = TOKENS <= 16;
    static constexpr int ADDED = TOKENS <= 64 ? TOKENS : TOKENS / 2;  // tokens whose sums are added up at once
    using X = OperandTile<TOKENS, true>;
    using Table = PairTable<uint32_t>;
    static constexpr int LINE = ROWS + 4;  // floats a token while sums are added up, so that lanes use all banks
    struct Stage {
        uint8_t codes[ROWS][DEPTH / 2];  // 16-byte chunks swizzled
        bf16 x[BLOCKS][X::ELEMENTS];
    };
    // Shared memory: some stages, the table at the next multiple of 64 KB, the other stages, and what is small. After the
    // last stage, sums are in the first stages' place.
    struct Small {
        float map[256];
        Barrier full[STAGES], empty[STAGES];
    };
    struct Shared {
        static constexpr uint32_t FIRST = Table::BELOW / sizeof(Stage), ABOVE = Table::BELOW + Table::BYTES;
        static constexpr uint32_t LATER = STAGES > FIRST ? STAGES - FIRST : 0;
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
    };

    // What a block makes: rows of one layer's y, from a part of k.
    struct Part {
        uint32_t layer, row0;
        int first, steps;
    };

    // One thread: the codes of a stage, and the tokens where they stay in order.
    static __device__ __forceinline__ void load_codes(const Nf4LinearSm90Params& p, Stage& stage, Barrier* full, const Part& part,
                                                      int step) {
        barrier_arrive_expecting(full, REORDERED ? sizeof(stage.codes) : sizeof(stage.codes) + sizeof(stage.x));
        tma_load(stage.codes, &p.codes[part.layer], step * (DEPTH / 4), part.row0, full);
    }
    static __device__ __forceinline__ void load_in_order(const Nf4LinearSm90Params& p, Stage& stage, Barrier* full, int step) {
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            X::template load<1>(stage.x[block], &p.x, 0, step * DEPTH + block * BLOCK, full, 0);
        }
    }

    // The tokens of a stage by a warpgroup, a block of inputs a warp: of every 16 pairs, the four of a lane's four bytes of
    // codes go to where its registers have theirs, one in each 16-byte chunk.
    static __device__ __forceinline__ void load_reordered(const Nf4LinearParams& p, Stage& stage, Barrier* full, int step) {
        static_assert(BLOCKS == 4, "a block a warp");
        const uint32_t pair = threadIdx.x % 32, block = threadIdx.x / 32 % 4;
        const uint32_t chunk = pair / 16 * 4 + pair % 4, at = pair % 16 / 4 * 2;
        const uint32_t column = step * DEPTH + block * BLOCK + pair * 2;
        const bf16* from = reinterpret_cast<const bf16*>(p.x) + (column < p.k ? column : 0);
        bf16* to = stage.x[block] + at;
#pragma unroll
        for (uint32_t token = 0; token < TOKENS; token++) {
            const bool inside = token < p.m && column < p.k;
            cp_async_4(to + token * BLOCK + (chunk ^ token % 8) * 8, from, inside ? 4 : 0);
            if (token + 1 < p.m) from += p.k;
        }
        cp_async_arrive(full);
    }

    // One thread loads this block's stages, or where tokens are reordered a warpgroup. The launch before may still run: it
    // makes the tokens, and no launch near makes codes, so the first of these are asked for before the wait.
    static __device__ __forceinline__ void load(const Nf4LinearSm90Params& p, const Shared& shared, const Part& part) {
        const bool leads = threadIdx.x == CONSUMERS;
        const int ahead = min(part.steps, STAGES);
        for (int i = 0; leads && i < ahead; i++) load_codes(p, shared.stage(i), &shared.small().full[i], part, part.first + i);
        wait_for_launch();
        Ring<STAGES> at;
        for (int i = 0; i < part.steps; i++, at.advance()) {
            Stage& stage = shared.stage(at.stage);
            Barrier* full = &shared.small().full[at.stage];
            const int step = part.first + i;
            barrier_wait(&shared.small().empty[at.stage], at.parity ^ 1);
            if (leads && i >= ahead) load_codes(p, stage, full, part, step);
            if constexpr (REORDERED) {
                load_reordered(p.layers[0], stage, full, step);
            } else {
                load_in_order(p, stage, full, step);
            }
        }
        if (REORDERED) cp_async_wait<0>();
    }

    // The rows `row` and row + 8 of a block of a stage.
    static __device__ __forceinline__ void decode(Fragment& a, const typename Table::Look& look, const Stage& stage, uint32_t row,
                                                  int block) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const uint8_t* line = stage.codes[row + side * 8];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // As the copy engine swizzles lines of 128 bytes, and of 64.
                const uint8_t* chunk = line + ((block * 2 + half) ^ (DEPTH == 256 ? row % 8 : row / 2 % 4)) * 16;
                const auto set = [&](int i, uint32_t pair) { a[half * 2 + i / 2][i % 2 * 2 + side] = pair; };
                if constexpr (REORDERED) {
                    const uint32_t bytes = *reinterpret_cast<const uint32_t*>(chunk + threadIdx.x % 4 * 4);
#pragma unroll
                    for (int i = 0; i < 4; i++) set(i, look.pair(bytes, i));
                } else {
                    const uint4 words = load_16(chunk);
                    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
                    for (int i = 0; i < 4; i++) set(i, look.pair(word[i]));
                }
            }
        }
    }

    static __device__ __forceinline__ void multiply(float (&sum)[TOKENS / 2], const Fragment& a, uint64_t x, int block) {
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < 4; step++) {
            wgmma_registers<TOKENS, true>(sum, a[step], X::further(x, block * X::BYTES + step * 32), step > 0);
        }
        wgmma_commit();
    }

    // A warpgroup's part: of each stage, MINE blocks from BEGIN on.
    template <int BEGIN>
    static __device__ __forceinline__ void compute(const Nf4LinearParams& p, const Shared& shared, float (&total)[TOKENS / 2],
                                                   const Part& part) {
        const uint32_t lane = threadIdx.x % 32, row = threadIdx.x % 256 / 32 * 16 + lane / 4;
        const uint32_t last = p.n - 1, row0 = part.row0;
        const int block = part.first * BLOCKS + BEGIN;
        typename Scales<MINE, BLOCKS, DOUBLE>::From from[2] = {{p, min(row0 + row, last), block},
                                                       {p, min(row0 + row + 8, last), block}};
        const float offset = DOUBLE ? *reinterpret_cast<const float*>(p.offset) : 0.0f;
        const typename Table::Look look(shared.table, lane % 4);
        const float* map = shared.small().map;
        float sum[TOKENS / 2];
        Fragment a[2];
        Scales<MINE, BLOCKS, DOUBLE> scales, next;
        int left = p.k / BLOCK - block;
        next.load(from, left);
        // Adds the products of a block that were under way.
        const auto add = [&](int block) {
            wgmma_wait<0>();
            keep(sum);
            keep(a[block % 2]);
            const float scale[2] = {scales.get(0, block, map, offset), scales.get(1, block, map, offset)};
#pragma unroll
            for (int i = 0; i < TOKENS / 2; i++) total[i] = fmaf(scale[i / 2 % 2], sum[i], total[i]);
        };
        Ring<STAGES> at;
        uint32_t before = 0;
        for (int step = 0; step < part.steps; step++, at.advance()) {
            const Stage& stage = shared.stage(at.stage);
            const uint64_t x = X::descriptor(stage.x[BEGIN], 0, 0);
            barrier_wait(&shared.small().full[at.stage], at.parity);
            if (REORDERED) async_proxy_fence();  // wgmma reads what ordinary copies wrote
#pragma unroll
            for (int block = 0; block < MINE; block++) {
                decode(a[block % 2], look, stage, row, BEGIN + block);
                if (block > 0) {
                    add(block - 1);
                } else {
                    if (step > 0) {
                        add(MINE - 1);
                        if (lane == 0) barrier_arrive(&shared.small().empty[before]);
                    }
                    scales = next;
                    next.load(from, left -= BLOCKS);
                }
                multiply(sum, a[block % 2], x, block);
            }
            before = at.stage;
        }
        add(MINE - 1);
    }

    static __device__ __forceinline__ void run(const Nf4LinearSm90Params& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        const Shared shared(memory);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(&shared.small().full[i], REORDERED ? 1 + 128 : 1);
                barrier_init(&shared.small().empty[i], CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        const uint32_t splits = p.splits, rank = blockIdx.x % splits;
        uint32_t tile = blockIdx.x / splits, layer = 0;
        while (tile >= p.tiles[layer]) tile -= p.tiles[layer++];
        const Nf4LinearParams& linear = p.layers[layer];
        const int all = (linear.k + DEPTH - 1) / DEPTH, first = all * rank / splits;
        const Part part{layer, tile * ROWS, first, (int)(all * (rank + 1) / splits) - first};
        if (threadIdx.x >= CONSUMERS) {
            fewer_registers<REORDERED ? 32 : 24>();
            if (REORDERED || threadIdx.x == CONSUMERS) load(p, shared, part);
            return;
        }
        more_registers<DEEP == 2 ? 112 : 240>();
        shared.table.fill(threadIdx.x, CONSUMERS);
        if (DOUBLE && threadIdx.x < 256) {
            shared.small().map[threadIdx.x] = reinterpret_cast<const float*>(linear.map)[threadIdx.x];
        }
        named_barrier(1, CONSUMERS);
        float total[TOKENS / 2] = {};
        // Known to the compiler, so that descriptors are made once a warp.
        if (DEEP == 1 || threadIdx.x < CONSUMERS / 2) {
            compute<0>(linear, shared, total, part);
        } else {
            compute<BLOCKS - MINE>(linear, shared, total, part);
        }
#pragma unroll
        for (int token = 0; token < TOKENS; token += ADDED) add_up(linear, splits, shared, total, part.row0, rank, token);
    }

    // ADDED tokens from `token0` on: the sums of warpgroups of the same rows, then those of all blocks of the cluster, in order;
    // rows of y from there.
    static __device__ __forceinline__ void add_up(const Nf4LinearParams& linear, uint32_t splits, const Shared& shared,
                                                  const float (&total)[TOKENS / 2], uint32_t row0, uint32_t rank, int token0) {
        const uint32_t lane = threadIdx.x % 32, row = threadIdx.x % 256 / 32 * 16 + lane / 4;
        float* sums = reinterpret_cast<float*>(shared.memory);
        static_assert(ADDED % 8 == 0 && ADDED * LINE * sizeof(float) <= Shared::FIRST * sizeof(Stage), "the sums take the stages' place");
#pragma unroll
        for (int deep = DEEP - 1; deep >= 0; deep--) {
            named_barrier(1, CONSUMERS);
            if ((int)threadIdx.x / 256 != deep) continue;
#pragma unroll
            for (int i = 0; i < ADDED / 2; i++) {
                float* to = sums + (i / 4 * 8 + lane % 4 * 2 + i % 2) * LINE + row + i / 2 % 2 * 8;
                const float mine = total[token0 / 2 + i];
                *to = deep == DEEP - 1 ? mine : mine + *to;
            }
        }
        splits > 1 ? cluster_sync() : named_barrier(1, CONSUMERS);
        const int tokens = min((int)linear.m - token0, ADDED);
        for (int i = threadIdx.x * splits + rank; i < tokens * (ROWS / 4); i += CONSUMERS * splits) {
            const uint32_t token = i / (ROWS / 4), column = i % (ROWS / 4) * 4;
            const float* from = sums + token * LINE + column;
            float4 sum = *reinterpret_cast<const float4*>(from);
            if (splits > 1) sum = load_shared_of(from, 0);
            for (uint32_t of = 1; of < splits; of++) {
                const float4 part = load_shared_of(from, of);
                sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
            }
            const Row<bf16> y{reinterpret_cast<bf16*>(linear.y) + (size_t)(token0 + token) * linear.n, linear.n, false};
            y.store(row0 + column, sum.x, sum.y);
            y.store(row0 + column + 2, sum.z, sum.w);
        }
        if (splits > 1) cluster_sync();  // others may still read these sums
    }
};

// Up to so many tokens; up to eight: linear_few.cu. linear/fused/sm90.rs knows a stage's inputs, the stages and the threads.
#define LINEAR_NF4(tokens, depth, stages, deep)                                              \
    KERNEL_AHEAD(linear_sm90_nf4_##tokens, Nf4LinearSm90Params, 256 * deep + 128, 1) {       \
        Nf4Linear<tokens, depth, stages, deep, false>::run(p);                               \
    }                                                                                        \
    KERNEL_AHEAD(linear_sm90_nf4_double_##tokens, Nf4LinearSm90Params, 256 * deep + 128, 1) { \
        Nf4Linear<tokens, depth, stages, deep, true>::run(p);                                \
    }
LINEAR_NF4(16, 256, 6, 2)
LINEAR_NF4(32, 256, 4, 1)
LINEAR_NF4(64, 256, 3, 1)
LINEAR_NF4(80, 128, 5, 1)
LINEAR_NF4(96, 128, 4, 1)
LINEAR_NF4(128, 128, 3, 1)
