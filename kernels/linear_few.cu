// y = x W^T for an NF4 weight and up to eight tokens, without the weight ever being written out: codes become bf16 fragments in
// registers, by a table of all 256 pairs of codes, and go straight to the tensor cores (mma.sync). The weight is the left
// operand, 16 of its rows a tile; the tokens are the right one. A block's absmax is applied to the sums over its 64 inputs,
// in float.
//
// The warps of a block share k: each keeps its slice of x in registers while tile after tile of the weight goes by, through
// a ring of cp.async stages of its own. Warps meet once a few tiles, when all their sums are in shared memory; a few of them
// add these up while the others go on. What a block needs first it asks for first: memory answers in order, and the
// ring's requests keep it busy for microseconds.
//
// Any order of k will do that is the same for both operands: each of the four lanes of a row takes 16 neighbours of a
// block, so that it reads 8 bytes of codes and 32 of x at once.
//
// Budget: 128 registers a thread, of which x takes 32 (16 tokens need 64, and spill). Shared memory: 64 KB for the table, 74 KB
// for the ring (a deeper one fills no sooner and delays what comes after it), 20 KB for sums: one block a multiprocessor.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "tile/nf4_pairs.cuh"

constexpr int ROWS = 16, SLICE = 256, BLOCK = KIUNGO_NF4_BLOCK, BLOCKS = SLICE / BLOCK;
constexpr int TOKENS = 8, WARPS = 16, THREADS = WARPS * 32, STAGES = 2;
constexpr int LINE = ROWS + 4;  // floats a token of a warp's sums, so that lanes use all banks

// The absmax of a stage's four blocks of a row, as they are in memory.
template <bool DOUBLE> struct Scales;
template <> struct Scales<false> {
    float absmax[ROWS][BLOCKS];

    __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t block0, uint32_t lane) {
        const uint32_t block = lane % BLOCKS, blocks = p.k / BLOCK, last = p.n - 1 - row0;
        const bool inside = block0 + block < blocks;
        const float* all = reinterpret_cast<const float*>(p.absmax);
        const float* from = all + (inside ? (size_t)row0 * blocks + block0 + block : 0);
#pragma unroll
        for (uint32_t row = lane / BLOCKS; row < ROWS; row += 32 / BLOCKS) {
            cp_async_4(&absmax[row][block], from + min(row, last) * blocks, inside ? 4 : 0);
        }
    }
    __device__ __forceinline__ void get(float (&scale)[BLOCKS], uint32_t row, const float*, float) const {
        const uint4 bits = load_16(absmax[row]);
        scale[0] = __uint_as_float(bits.x), scale[1] = __uint_as_float(bits.y);
        scale[2] = __uint_as_float(bits.z), scale[3] = __uint_as_float(bits.w);
    }
};
template <> struct Scales<true> {
    uint32_t codes[ROWS];  // four a row
    float absmax[ROWS];    // p.k is a multiple of 256, so that four blocks of a row share one

    __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t block0, uint32_t lane) {
        const uint32_t row = lane % ROWS, blocks = p.k / BLOCK;
        const bool inside = block0 < blocks;
        const size_t at = (size_t)min(row0 + row, p.n - 1) * blocks + (inside ? block0 : 0);
        const uint64_t from = lane < ROWS ? p.scale_codes + at : p.absmax + at / KIUNGO_NF4_NESTED_BLOCK * sizeof(float);
        void* to = lane < ROWS ? static_cast<void*>(&codes[row]) : &absmax[row];
        cp_async_4(to, reinterpret_cast<const void*>(from), inside ? 4 : 0);
    }
    __device__ __forceinline__ void get(float (&scale)[BLOCKS], uint32_t row, const float* map, float offset) const {
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            scale[i] = __fadd_rn(__fmul_rn(map[codes[row] >> i * 8 & 255], absmax[row]), offset);
        }
    }
};

template <bool DOUBLE> struct Nf4LinearFew {
    using Table = PairTable<uint32_t>;

    // A warp's slice of a tile. What lies beyond the inputs is zero; rows beyond the last are the last.
    struct Stage {
        uint8_t codes[ROWS][SLICE / 2];  // 16-byte chunks swizzled
        Scales<DOUBLE> scales;

        // Of rows two apart, so that four rows' 32 bytes lie in different banks.
        static __device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) { return (chunk ^ row % 4 * 2) * 16; }

        __device__ __forceinline__ void copy(const Nf4LinearParams& p, uint32_t row0, uint32_t k0, uint32_t lane) {
            constexpr int CHUNKS = SLICE / 2 / 16;
            const uint32_t chunk = lane % CHUNKS, last = p.n - 1 - row0;
            const bool inside = k0 + chunk * 32 < p.k;
            const uint8_t* from = reinterpret_cast<const uint8_t*>(p.codes) + (size_t)row0 * (p.k / 2);
            if (inside) from += k0 / 2 + chunk * 16;
#pragma unroll
            for (uint32_t row = lane / CHUNKS; row < ROWS; row += 32 / CHUNKS) {
                cp_async_16(codes[row] + swizzled(row, chunk), from + min(row, last) * (p.k / 2), inside ? 16 : 0);
            }
            scales.copy(p, row0, k0 / BLOCK, lane);
        }
    };

    struct Small {
        float map[256];
        // Of two groups of tiles: those of one are added up while the next ones come. By tile, warp and token, of which there
        // may be fewer than TOKENS, and then more tiles.
        float sums[2][WARPS * TOKENS * LINE];
    };
    // Shared memory: what is small, some stages, the table at the next multiple of 64 KB, and the other stages.
    struct Shared {
        static constexpr uint32_t FIRST = (Table::BELOW - sizeof(Small)) / sizeof(Stage), ABOVE = Table::BELOW + Table::BYTES;
        unsigned char* memory;
        __device__ __forceinline__ Small& small() const { return *reinterpret_cast<Small*>(memory); }
        __device__ __forceinline__ Stage& stage(uint32_t i) const {
            const uint32_t at = i < FIRST ? sizeof(Small) + i * sizeof(Stage) : ABOVE + (i - FIRST) * sizeof(Stage);
            return *reinterpret_cast<Stage*>(memory + at);
        }
    };

    // The order of a block's tiles, every gridDim.x-th of the weight's: groups whose sums fit; in each the rounds, if the
    // slices of all warps are not all of k; in each the tiles.
    struct Order {
        int tiles, rounds, group;
    };
    struct At {
        int group = 0, round = 0, tile = 0;

        __device__ __forceinline__ uint32_t row0() const { return (blockIdx.x + tile * gridDim.x) * ROWS; }
        __device__ __forceinline__ uint32_t k0(uint32_t warp) const { return (round * WARPS + warp) * SLICE; }
        __device__ __forceinline__ void advance(const Order& order) {
            if (++tile < min(group + order.group, order.tiles)) return;
            if (++round < order.rounds) {
                tile = group;
            } else {
                round = 0;
                group = tile;
            }
        }
    };

    // A thread's part of the right side for a slice: two registers a step of 16 inputs. Zero beyond the tokens and the inputs.
    struct X {
        uint32_t pairs[BLOCKS][4][2];

        __device__ __forceinline__ void load(const Nf4LinearParams& p, uint32_t k0, uint32_t lane) {
            const uint32_t token = lane / 4, column = k0 + lane % 4 * 16;
            const bf16* from = reinterpret_cast<const bf16*>(p.x) + (size_t)token * p.k + column;
#pragma unroll
            for (int i = 0; i < BLOCKS * 2; i++) {
                const int block = i / 2, step = i % 2 * 2;
                const bool inside = token < p.m && column + block * BLOCK < p.k;
                const uint4 four = inside ? load_16(from + block * BLOCK + step * 4) : make_uint4(0, 0, 0, 0);
                pairs[block][step][0] = four.x, pairs[block][step][1] = four.y;
                pairs[block][step + 1][0] = four.z, pairs[block][step + 1][1] = four.w;
            }
        }
    };

    // What a thread needs of a stage: two rows' codes and scales.
    struct Weights {
        uint2 codes[BLOCKS][2];
        float scale[2][BLOCKS];

        __device__ __forceinline__ void load(const Stage& stage, uint32_t lane, const float* map, float offset) {
#pragma unroll
            for (int side = 0; side < 2; side++) {
                const uint32_t row = lane / 4 + side * 8;
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
                    const uint8_t* chunk = stage.codes[row] + Stage::swizzled(row, block * 2 + lane % 4 / 2);
                    codes[block][side] = *reinterpret_cast<const uint2*>(chunk + lane % 2 * 8);
                }
                stage.scales.get(scale[side], row, map, offset);
            }
        }
    };

    static __device__ __forceinline__ void multiply(float (&total)[4], const Weights& weights, const X& x,
                                                    const typename Table::Look& look) {
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            float sum[4] = {};
#pragma unroll
            for (int step = 0; step < 4; step++) {
                uint32_t a[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint2 codes = weights.codes[block][i % 2];
                    a[i] = look.pair(step < 2 ? codes.x : codes.y, step % 2 * 2 + i / 2);
                }
                mma_m16n8k16_bf16(sum, a, x.pairs[block][step]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) total[i] = fmaf(weights.scale[i / 2][block], sum[i], total[i]);
        }
    }

    static __device__ __forceinline__ void run(const Nf4LinearParams& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        Table::check(memory);
        const Table table(memory);
        const Shared shared{memory};
        Small& small = shared.small();
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, tokens = p.m;
        const int all = (p.n + ROWS - 1) / ROWS, tiles = (all - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
        const Order order{tiles, (int)((p.k + WARPS * SLICE - 1) / (WARPS * SLICE)), TOKENS / (int)tokens};

        X x;
        x.load(p, warp * SLICE, lane);
        float offset = 0.0f;
        if (DOUBLE) {
            offset = *reinterpret_cast<const float*>(p.offset);
            if (threadIdx.x < 256) small.map[threadIdx.x] = reinterpret_cast<const float*>(p.map)[threadIdx.x];
        }
        At ahead;
        const auto copy_next = [&](Stage& stage) {
            if (ahead.group < tiles) stage.copy(p, ahead.row0(), ahead.k0(warp), lane);
            cp_async_commit();
            ahead.advance(order);
        };
#pragma unroll 1
        for (int i = 0; i < STAGES; i++) copy_next(shared.stage(i * WARPS + warp));
        table.fill(threadIdx.x, THREADS);
        __syncthreads();
        const typename Table::Look look(table, 0);

        int stage = 0, half = 0;
        for (At at; at.group < tiles;) {
            if (order.rounds > 1 && at.tile == at.group && at.group + at.round > 0) x.load(p, at.k0(warp), lane);
            cp_async_wait<STAGES - 1>();
            __syncwarp();
            Stage& mine = shared.stage(stage * WARPS + warp);
            Weights weights;
            weights.load(mine, lane, small.map, offset);
            __syncwarp();
            copy_next(mine);
            stage = stage + 1 < STAGES ? stage + 1 : 0;

            float total[4] = {};
            float* sums = small.sums[half] + ((at.tile - at.group) * WARPS + warp) * tokens * LINE + lane / 4;
            const auto each_sum = [&](auto visit) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint32_t token = lane % 4 * 2 + i % 2;
                    if (token < tokens) visit(sums[token * LINE + i / 2 * 8], total[i]);
                }
            };
            if (at.round > 0) each_sum([](float sum, float& total) { total = sum; });
            multiply(total, weights, x, look);
            each_sum([](float& sum, float total) { sum = total; });

            const int group = at.group;
            at.advance(order);
            if (at.group == group) continue;
            __syncthreads();
            add_up(p, small.sums[half], group, at.group - group, tokens);
            half ^= 1;
        }
    }

    // Rows of y: the sums of all warps, in order.
    static __device__ __forceinline__ void add_up(const Nf4LinearParams& p, const float* sums, int first, int tiles,
                                                  uint32_t tokens) {
        for (uint32_t i = threadIdx.x; i < tiles * tokens * ROWS; i += THREADS) {
            const uint32_t row = i % ROWS, token = i / ROWS % tokens, tile = i / ROWS / tokens;
            const float* from = sums + (tile * WARPS * tokens + token) * LINE + row;
            float sum = 0.0f;
#pragma unroll
            for (int warp = 0; warp < WARPS; warp++) sum += from[warp * tokens * LINE];
            const uint32_t column = (blockIdx.x + (first + tile) * gridDim.x) * ROWS + row;
            if (column < p.n) reinterpret_cast<bf16*>(p.y)[(size_t)token * p.n + column] = from_float<bf16>(sum);
        }
    }
};

// linear/fused/few.rs knows the stages.
KERNEL(linear_few_nf4, Nf4LinearParams, THREADS, 1) { Nf4LinearFew<false>::run(p); }
KERNEL(linear_few_nf4_double, Nf4LinearParams, THREADS, 1) { Nf4LinearFew<true>::run(p); }
