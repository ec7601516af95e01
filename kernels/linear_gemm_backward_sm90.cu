// dx = dy W for an NF4 weight and many tokens on Hopper's tensor cores: as in linear_backward_sm90.cu codes become the left
// side of wgmma in registers, a level rounded to bf16 times absmax and rounded once, whose rows are inputs; the tokens are the
// right side. So what is computed is dx^T, which is turned round on its way out.
//
// A warpgroup loads: the copy engine fills a ring of stages of 64 outputs, the weight's of a tile's inputs and dy's of its tokens,
// and its threads the stage's scales. Two warpgroups compute; they decode codes while the products before are under way.
// ldmatrix hands a lane the codes of four neighbouring inputs and two outputs. Of tiles of 256 inputs a warpgroup takes 128, two
// products of 64: what it reads of dy and of scales serves more products. Of tiles of 128, which leave room for more tokens, both
// take two of every four inputs. Layers of one x are one sum, over the outputs of all.
//
// As many blocks as fit at once take tile after tile, each by itself; or, where tiles are few, both blocks of a cluster take a
// part of the outputs each, and in the end each adds up half of the tokens.
//
// Bound by shared memory's 128 bytes a cycle. A stage of 128 inputs and 192 tokens: 384 cycles for what wgmma reads of dy, 192 to
// bring it there, 128 each for look-ups and scales, 120 for codes; it takes 1120, its products 768. Of 256 inputs: 1530, 1990 and 1536.
//
// Budget of 240 registers a thread: up to 192 for sums, 16 for left sides and 8 for codes. Shared memory: 64 KB for
// the table of pairs of values, up to 128 KB for dy, 32 KB for codes, 4 KB for scales and 8 KB for results; one block a
// multiprocessor.
#include "kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/thread.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/nf4_columns_operand.cuh"
#include "tile/nf4_pairs.cuh"
#include "tile/nf4_parts.cuh"
#include "tile/operand.cuh"
#include "tile/schedule.cuh"

constexpr int DEPTH = COLUMN_DEPTH;  // outputs of a stage
constexpr int CONSUMERS = 256;

constexpr int least(int x, int y) { return x < y ? x : y; }

// A warpgroup multiplies TILES times 64 inputs with TOKENS tokens.
template <int TILES, int TOKENS, int PARTS, bool DOUBLE> struct Nf4GemmBackward {
    static constexpr int INPUTS = 128 * TILES, BLOCKS = INPUTS / KIUNGO_NF4_BLOCK;
    // Left sides in registers; and at once, while the others' products are under way, decoded and then multiplied: of 256 inputs two
    // take up to 3 % longer, of 128 one takes up to 8 and four up to 28 % longer.
    static constexpr int LEFT_SIDES = 4, AT_ONCE = TILES == 1 ? 2 : 1;
    static constexpr int MINE = TOKENS / PARTS;       // tokens whose results a block makes
    static constexpr int SLAB = 32 / TILES;           // which leave at once
    using Dy = OperandTile<TOKENS, true>;
    using Table = PairTable<uint32_t>;
    using Sums = float[TILES][TOKENS / 2];
    using Codes = ColumnCodes[INPUTS / 128];
    using Results = uint32_t[SLAB][INPUTS / 2];  // as pairs of inputs

    // Shared memory: what is below the table, and above it from the second multiple of 64 KB on ABOVE bytes, stages of dy but the
    // first. Results are where room is left.
    static constexpr int ABOVE = 96 << 10, SMALL = 256;
    static constexpr int ROOM = Table::BELOW - Dy::BYTES - SMALL - (TILES == 1 ? sizeof(Results) : 0);
    static constexpr int STAGES = least(1 + ABOVE / Dy::BYTES, ROOM / (sizeof(Codes) + BLOCKS * sizeof(BlockScales)));
    struct Below {
        bf16 dy[Dy::ELEMENTS];
        Codes codes[STAGES];
        BlockScales scales[STAGES][BLOCKS];
        Barrier full[STAGES], empty[STAGES];
    };
    using Above = bf16[STAGES - 1][Dy::ELEMENTS];
    struct Shared {
        static_assert(sizeof(Below) + (TILES == 1 ? sizeof(Results) : 0) <= Table::BELOW, "what is below the table");
        static_assert(sizeof(Above) + (TILES == 1 ? 0 : sizeof(Results)) <= ABOVE, "what is above it");
        static_assert(PARTS == 1 || MINE * INPUTS * sizeof(float) <= ABOVE, "the other part's sums take its place");
        Below& below;
        unsigned char* above;
        __device__ __forceinline__ explicit Shared(unsigned char* memory)
            : below(*reinterpret_cast<Below*>(memory)), above(memory + Table::BELOW + Table::BYTES) {
            Table::check(memory);
        }
        __device__ __forceinline__ bf16* dy(uint32_t stage) const {
            return stage == 0 ? below.dy : reinterpret_cast<Above&>(*above)[stage - 1];
        }
        __device__ __forceinline__ Results& results() const {
            void* place = TILES == 1 ? static_cast<void*>(&below + 1) : above + sizeof(Above);
            return *static_cast<Results*>(place);
        }
    };

    // A block's stages of a tile.
    struct Range {
        int first, steps;
        __device__ __forceinline__ Range(const Nf4BackwardSm90Params& p, uint32_t part) {
            const int all = p.steps[0] + p.steps[1] + p.steps[2];
            first = all * part / PARTS;
            steps = all * (part + 1) / PARTS - first;
        }
    };

    // Calls work(input0, token0) for each tile of this block.
    template <class Work> static __device__ __forceinline__ void each_tile(const Nf4LinearParams& p, Work work) {
        const uint32_t down = (p.k + INPUTS - 1) / INPUTS, across = (p.m + TOKENS - 1) / TOKENS;
        for (uint32_t i = blockIdx.x / PARTS; i < down * across; i += gridDim.x / PARTS) {
            const TileIndex tile = tile_of(i, down, across);
            work(tile.m * INPUTS, tile.n * TOKENS);
        }
    }

    // A warpgroup: loads this block's stages, a thread TILES scales, asked for two stages before they are stored.
    static __device__ __forceinline__ void load(const Nf4BackwardSm90Params& p, const Shared& shared, const Range range) {
        const uint32_t mine = threadIdx.x % DEPTH, which = threadIdx.x / DEPTH * TILES;
        Ring<STAGES> ring;
        each_tile(p.backward.linear, [&](uint32_t input0, uint32_t token0) {
            LayerStage at(p, range.first), ahead = at;
            OneScale<DOUBLE> scales[2][TILES];
            const auto ask = [&](OneScale<DOUBLE>(&scales)[TILES]) {
                const uint32_t output = ahead.step * DEPTH + mine, block = input0 / KIUNGO_NF4_BLOCK + which;
#pragma unroll
                for (int i = 0; i < TILES; i++) scales[i].load(p.layers[ahead.layer], output, block + i);
                ahead.advance(p);
            };
            ask(scales[0]);
            ask(scales[1]);
            const auto step = [&](OneScale<DOUBLE>(&scales)[TILES]) {
                Barrier* full = &shared.below.full[ring.stage];
                barrier_wait(&shared.below.empty[ring.stage], ring.parity ^ 1);
                if (threadIdx.x == 0) {
                    barrier_arrive_expecting(full, sizeof(Codes) + Dy::BYTES);
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
                        tma_load(shared.below.codes[ring.stage][i], &p.codes[at.layer], input0 / 4 + i * 32, at.step * DEPTH, full);
                    }
                    Dy::template load<1>(shared.dy(ring.stage), &p.dy[at.layer], token0, at.step * DEPTH, full, 0);
                }
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    put_scale(shared.below.scales[ring.stage][which + i], mine, scales[i].get(p.layers[at.layer]));
                }
                __syncwarp();
                if (threadIdx.x % 32 == 0) barrier_arrive(full);
                ask(scales);
                at.advance(p);
                ring.advance();
            };
            for (int left = range.steps; left > 0; left -= 2) {
                step(scales[0]);
                if (left > 1) step(scales[1]);
            }
        });
    }

    // A thread's inputs, its first TILES pairs of a block's: of four neighbours both, or one, and the other warpgroup's the other.
    static __device__ __forceinline__ uint32_t first_pair(uint32_t thread) {
        const uint32_t consumer = thread / 128 - 1;
        return consumer * (TILES == 1 ? 1 : 64) + thread / 32 % 4 * 16 + thread % 32 / 4 * 2;
    }

    static __device__ __forceinline__ void keep_all(Sums& sums) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) keep(sums[tile]);
    }

    // Sums begin with what they are added to, if anything.
    static __device__ __forceinline__ void begin(Sums& sums, const Nf4LinearParams& p, bool accumulate, uint32_t input0, uint32_t token0) {
        const uint32_t thread = fresh_thread(), input = input0 + first_pair(thread) * 2, token = token0 + thread % 4 * 2;
        const uint32_t* dx = reinterpret_cast<const uint32_t*>(reinterpret_cast<const bf16*>(p.y) + (size_t)token * p.k + input);
        const int tokens = accumulate && input < p.k ? (int)(p.m - token) : 0;
#pragma unroll
        for (int i = 0; i < TOKENS / 4; i++) {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint32_t two = i / 2 * 8 + i % 2 < tokens ? dx[i % 2 * (p.k / 2) + tile] : 0;
                sums[tile][i / 2 * 4 + i % 2] = __uint_as_float(two << 16);
                sums[tile][i / 2 * 4 + i % 2 + 2] = __uint_as_float(two & 0xffff0000u);
            }
            if (i % 2) dx += p.k * 4;
        }
        keep_all(sums);
    }

    // Gives the other block the sums of its tokens; those of one's own, block RANK's, go to the first place.
    template <int RANK> static __device__ __forceinline__ void give(Sums& sums, float4* theirs) {
#pragma unroll
        for (int i = 0; i < TILES * MINE / 2; i += 4) {
            float* sum = sums[i / (MINE / 2)] + i % (MINE / 2);
            const float* from = sum + (1 - RANK) * (MINE / 2);
            store_shared_of(theirs + i / 4 * CONSUMERS, 1 - RANK, make_float4(from[0], from[1], from[2], from[3]));
#pragma unroll
            for (int j = 0; j < 4; j++) sum[j] = sum[RANK * (MINE / 2) + j];
        }
    }

    // A cluster's blocks exchange their sums, after which each has those of its MINE tokens, in the first place.
    static __device__ __forceinline__ void exchange(Sums& sums, const Shared& shared, uint32_t rank) {
        float4* theirs = reinterpret_cast<float4*>(shared.above) + fresh_thread() - 128;
        cluster_sync();  // nobody computes from what is overwritten
        rank == 0 ? give<0>(sums, theirs) : give<1>(sums, theirs);
        cluster_sync();
#pragma unroll
        for (int i = 0; i < TILES * MINE / 2; i += 4) {
            float* sum = sums[i / (MINE / 2)] + i % (MINE / 2);
            const float4 more = theirs[i / 4 * CONSUMERS];
            sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
        }
    }

    // Stores MINE tokens of both warpgroups' inputs.
    static __device__ __forceinline__ void send(const Sums& sums, const Nf4LinearParams& p, Results& results, uint32_t input0,
                                                uint32_t token0) {
#pragma unroll
        for (int slab = 0; slab < MINE / SLAB; slab++) {
            const uint32_t thread = fresh_thread(), word = first_pair(thread);
            named_barrier(1, CONSUMERS);  // the slab before has been read
#pragma unroll
            for (int i = 0; i < SLAB / 4; i++) {
                const uint32_t token = i / 2 * 8 + thread % 4 * 2 + i % 2;
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    const float* from = sums[tile] + slab * (SLAB / 2) + i / 2 * 4 + i % 2;
                    // Swizzled: lanes use all banks.
                    results[token][(word + tile) ^ token / 2 % 2 * 16 ^ token / 4 % 2] = pack(from[0], from[2]);
                }
            }
            named_barrier(1, CONSUMERS);
#pragma unroll
            for (int i = 0; i < SLAB * INPUTS / 8 / CONSUMERS; i++) {
                const uint32_t token = (thread - 128 + i * CONSUMERS) / (INPUTS / 8), chunk = thread % (INPUTS / 8);
                uint4 eight = load_16(&results[token][(chunk ^ token / 2 % 2 * 4) * 4]);
                if (token / 4 % 2) eight = make_uint4(eight.y, eight.x, eight.w, eight.z);
                const uint32_t row = token0 + slab * SLAB + token, input = input0 + chunk * 8;
                if (row < p.m && input < p.k) store_16(reinterpret_cast<bf16*>(p.y) + (size_t)row * p.k + input, eight);
            }
        }
    }

    static __device__ __forceinline__ void compute(const Nf4BackwardSm90Params& p, const Shared& shared, const Table& table,
                                                   const Range range, uint32_t rank) {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, consumer = threadIdx.x / 128 - 1;
        const uint32_t part = TILES == 1 ? 0 : consumer;      // of 128 inputs
        const uint32_t selector = 0x6240 + consumer * 0x1111;  // of four inputs' codes of two outputs the two's, twice
        const typename Table::Look look(table, 0);
        const Nf4LinearParams& linear = p.backward.linear;
        Ring<STAGES> at;
        const auto release = [&](uint32_t stage) {
            if (lane == 0) barrier_arrive(&shared.below.empty[stage]);
        };
        each_tile(linear, [&](uint32_t input0, uint32_t token0) {
            Sums sums;
            begin(sums, linear, rank == 0 && p.backward.accumulate, input0, token0);
            uint32_t a[LEFT_SIDES][4];
            const auto stage = [&](bool any) {
                barrier_wait(&shared.below.full[at.stage], at.parity);
                const BlockScales& scales = shared.below.scales[at.stage][part * 2 + warp / 2];
                const uint64_t dy = Dy::descriptor(shared.dy(at.stage), 0, 0);
                uint32_t four[2][4];
#pragma unroll
                for (int half = 0; half < 2; half++) read_columns(four[half], shared.below.codes[at.stage][part], half);
#pragma unroll
                for (int two = 0; two < DEPTH / 16 * TILES; two += 2) {  // left sides: of two steps, or both of a step
                    const auto weights = [&](int i) { return ColumnStep<TILES>(four[i / TILES / 2], i / TILES % 2, selector); };
                    const ColumnStep<TILES> codes[2] = {weights(two), weights(two + 1)};
                    const StepScales scale[2] = {StepScales(scales[two / TILES]), StepScales(scales[(two + 1) / TILES])};
#pragma unroll
                    for (int first = two; first < two + 2; first += AT_ONCE) {
                        wgmma_wait<LEFT_SIDES / AT_ONCE - 1>();
                        if (first == LEFT_SIDES - AT_ONCE && any) release((at.stage + STAGES - 1) % STAGES);
#pragma unroll
                        for (int i = first; i < first + AT_ONCE; i++) {
                            keep(a[i % LEFT_SIDES]);
                            decode(a[i % LEFT_SIDES], look, codes[i % 2], i % TILES, scale[i % 2]);
                        }
                        wgmma_begin();
#pragma unroll
                        for (int i = first; i < first + AT_ONCE; i++) {
                            wgmma_registers<TOKENS, true>(sums[i % TILES], a[i % LEFT_SIDES], Dy::further(dy, i / TILES * 32));
                        }
                        wgmma_commit();
                    }
                }
                at.advance();
            };
            for (int left = range.steps; left > 0; left--) stage(left < range.steps);
            wgmma_wait<0>();
            keep_all(sums);
#pragma unroll
            for (int i = 0; i < LEFT_SIDES; i++) keep(a[i]);
            release((at.stage + STAGES - 1) % STAGES);
            if (PARTS > 1) exchange(sums, shared, rank);
            send(sums, linear, shared.results(), input0, token0 + rank * MINE);
        });
    }

    static __device__ __forceinline__ void run(const Nf4BackwardSm90Params& p) {
        DYNAMIC_SHARED(unsigned char, memory);
        const Shared shared(memory);
        const Table table(memory);
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(&shared.below.full[i], 1 + 4);
                barrier_init(&shared.below.empty[i], CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        const uint32_t rank = PARTS > 1 ? cluster_rank() : 0;
        const Range range(p, rank);
        if (threadIdx.x < 128) {
            fewer_registers<24>();
            load(p, shared, range);
            if (PARTS > 1) {
                cluster_sync();
                cluster_sync();
            }
        } else {
            more_registers<240>();
            table.fill(threadIdx.x - 128, CONSUMERS);  // while the first stages are on their way
            named_barrier(1, CONSUMERS);
            compute(p, shared, table, range, rank);
        }
    }
};

// linear/fused/backward_many.rs knows the tiles: inputs by tokens.
#define LINEAR_GEMM_BACKWARD(name, tiles, tokens, parts)                                                  \
    KERNEL(linear_gemm_backward_sm90_nf4_##name, Nf4BackwardSm90Params, CONSUMERS + 128, 1) {             \
        Nf4GemmBackward<tiles, tokens, parts, false>::run(p);                                             \
    }                                                                                                     \
    KERNEL(linear_gemm_backward_sm90_nf4_double_##name, Nf4BackwardSm90Params, CONSUMERS + 128, 1) {      \
        Nf4GemmBackward<tiles, tokens, parts, true>::run(p);                                              \
    }
LINEAR_GEMM_BACKWARD(128x256, 1, 256, 1)
LINEAR_GEMM_BACKWARD(128x192, 1, 192, 1)
LINEAR_GEMM_BACKWARD(256x192, 2, 192, 1)
LINEAR_GEMM_BACKWARD(128x256_parts, 1, 256, 2)
LINEAR_GEMM_BACKWARD(128x192_parts, 1, 192, 2)
LINEAR_GEMM_BACKWARD(128x128_parts, 1, 128, 2)
LINEAR_GEMM_BACKWARD(256x192_parts, 2, 192, 2)
