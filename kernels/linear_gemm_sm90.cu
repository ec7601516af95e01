// y = x W^T for an NF4 weight and many tokens on Hopper's tensor cores: the dequantised weight, bit for bit the one that
// nf4.cu writes, exists in registers only, as the left side of wgmma; the tokens are the right side. So what is computed
// is the transpose of a tile of y, which is turned round on its way out.
//
// A thread loads: the copy engine fills a ring of stages of 128 rows of the weight and the tokens by 64 inputs. Two
// warpgroups compute, 64 rows each; they decode the codes of a stage while the products of the one before are under way.
// As many blocks as fit at once take tile after tile, each by itself: in pairs that shared their tokens they took 2 to 8 %
// longer. Layers of one x may be one list of tiles, where that saves a round.
//
// Budget, 256 tokens: 128 registers a thread for sums, 32 for two steps' left sides, of 240. Shared memory: four stages of
// 36 KB, 64 KB for the table of all pairs of codes, in float so that a product with the absmax is rounded once, and 8 KB a
// warpgroup for what it sends: all there is, one block a multiprocessor.
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/nf4_operand.cuh"
#include "tile/operand.cuh"
#include "tile/schedule.cuh"

constexpr int ROWS = 128, DEPTH = KIUNGO_NF4_BLOCK;
constexpr int CONSUMERS = ROWS / 64 * 128, STAGES = 4;

// LAYERS of one x, whose tiles are one list; of several, scales are plain.
template <int TOKENS, int LAYERS, bool DOUBLE> struct Nf4Gemm {
    static_assert(LAYERS == 1 || !DOUBLE, "one map of scales");
    using X = OperandTile<TOKENS, true>;
    using Table = PairTable<float2>;
    using Codes = uint8_t[ROWS][DEPTH / 2];
    static constexpr int SLAB = 64;  // tokens that are sent at once

    // Shared memory: what is below the table, and above it from the second multiple of 64 KB on, fits to the byte.
    struct Below {
        bf16 x[X::ELEMENTS];
        Codes codes[STAGES - 1];
        bf16 sent[CONSUMERS / 128][SLAB * 64];
        float map[256];
        Barrier full[STAGES], empty[STAGES];
    };
    struct Above {
        bf16 x[STAGES - 1][X::ELEMENTS];
        Codes codes;
    };
    struct Shared {
        static_assert(sizeof(Below) <= Table::BELOW, "what is below the table");
        Below& below;
        Above& above;
        __device__ __forceinline__ explicit Shared(unsigned char* memory)
            : below(*reinterpret_cast<Below*>(memory)),
              above(*reinterpret_cast<Above*>(memory + Table::BELOW + Table::BYTES)) {
            Table::check(memory);
        }
        __device__ __forceinline__ bf16* x(uint32_t stage) const { return stage == 0 ? below.x : above.x[stage - 1]; }
        __device__ __forceinline__ Codes& codes(uint32_t stage) const {
            return stage == STAGES - 1 ? above.codes : below.codes[stage];
        }
    };

    // Calls work(layer, row0, token0) for each tile of this block.
    template <class Work> static __device__ __forceinline__ void each_tile(const Nf4GemmSm90Params& p, Work work) {
        const auto rows = [&](uint32_t layer) { return (p.layers[layer].n + ROWS - 1) / ROWS; };
        uint32_t down = 0;
#pragma unroll
        for (uint32_t layer = 0; layer < LAYERS; layer++) down += rows(layer);
        const uint32_t across = (p.layers[0].m + TOKENS - 1) / TOKENS;
        for (uint32_t i = blockIdx.x; i < down * across; i += gridDim.x) {
            TileIndex tile = tile_of(i, down, across);
            uint32_t layer = 0;
            while (LAYERS > 1 && tile.m >= rows(layer)) tile.m -= rows(layer++);
            work(layer, tile.m * ROWS, tile.n * TOKENS);
        }
    }

    static __device__ __forceinline__ void load(const Nf4GemmSm90Params& p, const Shared& shared) {
        Ring<STAGES> at;
        each_tile(p, [&](uint32_t layer, uint32_t row0, uint32_t token0) {
            for (uint32_t k = 0; k < p.layers[0].k; k += DEPTH, at.advance()) {
                Barrier* full = &shared.below.full[at.stage];
                barrier_wait(&shared.below.empty[at.stage], at.parity ^ 1);
                barrier_arrive_expecting(full, sizeof(Codes) + X::BYTES);
                tma_load(shared.codes(at.stage), &p.codes[layer], k / 4, row0, full);
                X::template load<1>(shared.x(at.stage), &p.x, token0, k, full, 0);
            }
        });
    }

    // A step's codes of two rows of a thread, each with its absmax, to values rounded as nf4.cu rounds them.
    static __device__ __forceinline__ void decode(Fragment& a, const typename Table::Look& look, const Codes& codes,
                                                  uint32_t row, const float (&scale)[2]) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // The copy engine's swizzle of lines of 32 bytes: four rows by four, their halves change places.
                const uint4 words = load_16(codes[row + side * 8] + (half ^ row / 4 % 2) * 16);
                const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = look.pair(word[i]);
                    a[half * 2 + i / 2][i % 2 * 2 + side] = pack(pair.x * scale[side], pair.y * scale[side]);
                }
            }
        }
    }

    // Sends a warpgroup's 64 rows of sums as tokens of y.
    static __device__ __forceinline__ void send(const float (&sum)[TOKENS / 2], bf16* place, uint32_t consumer,
                                                const TensorMap* y, uint32_t row0, uint32_t token0) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
        for (int slab = 0; slab < TOKENS / SLAB; slab++) {
            if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
            named_barrier(consumer + 1, 128);
#pragma unroll
            for (int i = 0; i < SLAB / 16; i++) {
                // Of sixteen tokens by sixteen rows, the address of one line of eight rows: a token's.
                const uint32_t token = i * 16 + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
                const float* c = sum + (slab * SLAB / 8 + i * 2) * 4;
                stmatrix_x4_trans(place + token * 64 + (chunk ^ token % 8) * 8, pack(c[0], c[1]), pack(c[2], c[3]),
                                  pack(c[4], c[5]), pack(c[6], c[7]));
            }
            async_proxy_fence();
            named_barrier(consumer + 1, 128);
            if (threadIdx.x % 128 == 0) {
                tma_store(y, row0, token0 + slab * SLAB, place);
                tma_store_commit();
            }
        }
    }

    static __device__ __forceinline__ void compute(const Nf4GemmSm90Params& p, const Shared& shared, const Table& table) {
        using MyScales = Scales<1, 1, DOUBLE>;
        const uint32_t lane = threadIdx.x % 32, consumer = threadIdx.x / 128 - 1;
        const uint32_t row = consumer * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
        const typename Table::Look look(table, lane % 4);
        const float offset = DOUBLE ? *reinterpret_cast<const float*>(p.layers[0].offset) : 0.0f;
        Ring<STAGES> at;
        const auto release = [&](uint32_t stage) {
            if (lane == 0) barrier_arrive(&shared.below.empty[stage]);
        };
        each_tile(p, [&](uint32_t layer, uint32_t row0, uint32_t token0) {
            const Nf4LinearParams& linear = p.layers[layer];
            const uint32_t last = linear.n - 1;
            typename MyScales::From from[2] = {{linear, min(row0 + row, last), 0}, {linear, min(row0 + row + 8, last), 0}};
            MyScales next;
            int left = linear.k / DEPTH;
            next.load(from, left);
            float sum[TOKENS / 2];
            Fragment a[2];
            // Begins a step's products; the step before, if any, is done once at most these are under way.
            const auto step = [&](Fragment& a, Fragment& before, bool any) {
                const float scale[2] = {next.get(0, 0, shared.below.map, offset), next.get(1, 0, shared.below.map, offset)};
                next.load(from, --left);
                barrier_wait(&shared.below.full[at.stage], at.parity);
                decode(a, look, shared.codes(at.stage), row, scale);
                const uint64_t x = X::descriptor(shared.x(at.stage), 0, 0);
                wgmma_begin();
#pragma unroll
                for (int i = 0; i < 4; i++) wgmma_registers<TOKENS, true>(sum, a[i], X::further(x, i * 32), any || i > 0);
                wgmma_commit();
                wgmma_wait<1>();
                keep(before);
                if (any) release((at.stage + STAGES - 1) % STAGES);
                at.advance();
            };
            for (bool any = false; left > 0; any = true) {
                step(a[0], a[1], any);
                step(a[1], a[0], true);
            }
            wgmma_wait<0>();
            keep(sum);
            keep(a[0]);
            keep(a[1]);
            release((at.stage + STAGES - 1) % STAGES);
            send(sum, shared.below.sent[consumer], consumer, &p.y[layer], row0 + consumer * 64, token0);
        });
        if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
    }

    static __device__ __forceinline__ void run(const Nf4GemmSm90Params& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        const Shared shared(memory);
        const Table table(memory);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(&shared.below.full[i], 1);
                barrier_init(&shared.below.empty[i], CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        if (threadIdx.x < 128) {
            fewer_registers<24>();
            if (threadIdx.x == 0) load(p, shared);
        } else {
            more_registers<240>();
            const uint32_t thread = threadIdx.x - 128;
            table.fill(thread, CONSUMERS);  // while the first stages are on their way
            if (DOUBLE) shared.below.map[thread] = reinterpret_cast<const float*>(p.layers[0].map)[thread];
            named_barrier(CONSUMERS / 128 + 1, CONSUMERS);
            compute(p, shared, table);
        }
    }
};

// linear/fused/many.rs knows the tokens.
#define LINEAR_GEMM(kind, tokens, dbl)                                                                   \
    KERNEL(linear_gemm_sm90_##kind##_##tokens, Nf4GemmSm90Params, CONSUMERS + 128, 1) { Nf4Gemm<tokens, 1, dbl>::run(p); }
#define TOGETHER(tokens)                                                                                 \
    KERNEL(linear_gemm_sm90_nf4_##tokens##_together, Nf4GemmSm90Params, CONSUMERS + 128, 1) {            \
        Nf4Gemm<tokens, KIUNGO_NF4_LAYERS, false>::run(p);                                               \
    }
LINEAR_GEMM(nf4, 256, false)
LINEAR_GEMM(nf4, 192, false)
LINEAR_GEMM(nf4, 128, false)
LINEAR_GEMM(nf4_double, 256, true)
LINEAR_GEMM(nf4_double, 192, true)
LINEAR_GEMM(nf4_double, 128, true)
TOGETHER(256)
TOGETHER(192)
