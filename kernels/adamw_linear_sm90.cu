// AdamW with 8-bit moments on the bf16 weights of linear layers that read one x, and the gradient of that x, on Hopper, in one
// pass over the weights: dx = sum of dy w, then w learns from dy^T x, which is never in memory. Up to 64 tokens. 8 bytes a weight
// cross memory; a product for dx alone would read 2 more.
//
// The copy engine fills a ring of stages: 32 rows of weights by a strip of 128 columns, their moments, and dy of those rows. One
// warpgroup multiplies dy with the weights of every stage by wgmma; its sums stay in registers down the strip. Three more, teams
// of four warps, take the stages in turn and step them as adamw_linear.cu does, a warp 8 rows. Who has read a stage says so;
// new weights and moments go from registers to memory.
//
// As many blocks for every strip take its upper stages in turn, so that what all of them read and write at a time lies side by side in
// memory. Blocks that are left over have the lower stages of all strips, each its share, from strip to strip. A block's part of dx
// goes to memory at the end of a strip, for `adamw_linear_dx_sum`.
//
// 16 warps of 128 registers; 182 KB of shared memory.
#include "kernel.cuh"
#include "ptx/warpgroup.cuh"
#include "ptx/wgmma.cuh"
#include "tile/adamw_8bit.cuh"
#include "tile/adamw_product.cuh"
#include "tile/adamw_shares.cuh"
#include "tile/operand.cuh"

constexpr uint32_t ROWS = KIUNGO_ADAMW_SM90_ROWS, COLUMNS = KIUNGO_ADAMW_BLOCK, TOKENS = KIUNGO_ADAMW_SM90_TOKENS;
constexpr int STAGES = KIUNGO_ADAMW_SM90_STAGES, TEAMS = 3, THREADS = KIUNGO_ADAMW_SM90_THREADS, LEARNERS = TEAMS * 128;
static_assert(THREADS == 128 + LEARNERS && ROWS == 4 * ADAMW_ROWS, "a warp of a team has 8 rows");

// In shared memory. Lines are 128 bytes, of dy 64, and swizzled.
struct Stage {
    using Weights = OperandTile<COLUMNS, false, ROWS>;  // two slabs of 64 columns
    using Dy = OperandTile<TOKENS, true, ROWS>;
    static constexpr uint32_t MOMENTS = ROWS * COLUMNS;  // bytes
    static constexpr uint32_t BYTES = Weights::BYTES + 2 * MOMENTS + Dy::BYTES;

    unsigned char* at;

    __device__ __forceinline__ bf16* weights() const { return reinterpret_cast<bf16*>(at); }
    __device__ __forceinline__ unsigned char* first() const { return at + Weights::BYTES; }
    __device__ __forceinline__ unsigned char* second() const { return first() + MOMENTS; }
    __device__ __forceinline__ bf16* dy() const { return reinterpret_cast<bf16*>(second() + MOMENTS); }

    // A line of dy's eight rows from 8 `eight` on.
    __device__ __forceinline__ const bf16* dy(uint32_t token, uint32_t eight) const {
        return dy() + token * ROWS + (eight ^ token / 2 % 4) * 8;
    }
    // This lane's part of row `row`, which is its as in adamw_linear.cu.
    __device__ __forceinline__ void read(Lane<bf16>& lane, uint32_t row) const {
        const uint32_t eight = threadIdx.x % 32 / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            lane.w[half].words[0] = load_16(weights() + half * ROWS * 64 + row * 64 + (eight ^ row % 8) * 8);
            const uint32_t chunk = (half * 4 + eight / 2) ^ row % 8, byte = row * COLUMNS + chunk * 16 + eight % 2 * 8;
            lane.m[half] = *reinterpret_cast<const uint2*>(first() + byte);
            lane.v[half] = *reinterpret_cast<const uint2*>(second() + byte);
        }
    }
};
static_assert(Stage::BYTES == KIUNGO_ADAMW_SM90_STAGE && Stage::BYTES % 1024 == 0, "params.h; swizzles begin anew");

// Which layer a row of stages is of, and its first row there.
struct Place {
    uint32_t layer, row;

    __device__ __forceinline__ Place(const AdamwLinearSm90Params& p, uint32_t stage) : layer(0) {
        while (stage >= p.layers[layer].stages) stage -= p.layers[layer++].stages;
        row = stage * ROWS;
    }
};

// A thread of the first warpgroup has every 128th.
__device__ __forceinline__ float4* part_of(uint64_t parts, uint32_t part) {
    return reinterpret_cast<float4*>(parts) + part * (TOKENS * COLUMNS / 4) + threadIdx.x;
}

struct Block {
    const AdamwLinearSm90Params& p;
    Shares shares;
    unsigned char* shared;
    Barrier *full, *empty;
    double* squares;  // of each warp that learns

    __device__ __forceinline__ Stage stage(const Ring<STAGES>& at) const { return {shared + at.stage * Stage::BYTES}; }
    __device__ __forceinline__ bf16* x() const { return reinterpret_cast<bf16*>(shared + STAGES * Stage::BYTES); }

    // One thread.
    __device__ __forceinline__ void load(const Ring<STAGES>& at, const Walk& walk) const {
        const Place place(p, walk.row);
        const AdamwLinearMaps& maps = p.maps[place.layer];
        const Stage to = stage(at);
        const uint32_t column = walk.strip * COLUMNS;
        Barrier* barrier = &full[at.stage];
        barrier_arrive_expecting(barrier, Stage::BYTES);
        Stage::Dy::load<1>(to.dy(), &maps.dy, 0, place.row, barrier, 0);
        Stage::Weights::load<1>(to.weights(), &maps.w, column, place.row, barrier, 0);
        tma_load(to.first(), &maps.m, column / 2, place.row, barrier);
        tma_load(to.second(), &maps.v, column / 2, place.row, barrier);
    }
    // A warp has done with a stage.
    __device__ __forceinline__ void release(uint32_t stage) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(&empty[stage]);
    }
};

// The first warpgroup; its first thread loads.
__device__ __forceinline__ void pass_back(const Block& block) {
    const AdamwLinearSm90Params& p = block.p;
    Walk walk(block.shares), ahead = walk;
    Ring<STAGES> at, to;
    const auto load = [&] {
        block.load(to, ahead);
        ahead.next(), to.advance();
    };
    if (threadIdx.x == 0) {
        while (ahead.left && to.parity == 0) load();
    }
    float sum[COLUMNS / 2];
    bool add = false;
#pragma unroll 1
    for (bool first = true; walk.left; walk.next(), first = false) {
        const Stage stage = block.stage(at);
        barrier_wait(&block.full[at.stage], at.parity);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < (int)ROWS; k += 16) {
            wgmma<COLUMNS, true, false>(sum, Stage::Dy::descriptor(stage.dy(), 0, k),
                                        Stage::Weights::descriptor(stage.weights(), 0, k), add || k > 0);
        }
        wgmma_commit();
        // The place of the stage before, as soon as its team has read it.
        if (threadIdx.x == 0 && !first && ahead.left) {
            barrier_wait(&block.empty[to.stage], to.parity ^ 1);
            load();
        }
        __syncwarp();
        wgmma_wait<0>();
        keep(sum);
        block.release(at.stage);
        add = true;
        at.advance();
        if (!walk.ends_strip()) continue;
        add = false;
        if (!p.parts) continue;
        float4* part = part_of(p.parts, block.shares.part(blockIdx.x, walk.strip));
#pragma unroll
        for (int i = 0; i < (int)COLUMNS / 8; i++) {
            part[i * 128] = make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
        }
    }
}

// This lane's two rows of a stage. The exponents of their blocks of moments come from memory by themselves, a stage ahead.
struct Rows {
    uint32_t layer, row;  // the first
    bool inside;          // and not beyond the layer
    uint8_t m[2], v[2];

    __device__ __forceinline__ Rows(const AdamwLinearSm90Params& p, const Walk& walk) {
        const Place place(p, walk.row);
        layer = place.layer, row = place.row + threadIdx.x / 32 % 4 * ADAMW_ROWS + threadIdx.x % 4 * 2;
        inside = row < p.layers[layer].outputs;
        if (!inside) return;
        const AdamwParams& adamw = p.layers[layer].adamw;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t block = (row + i) * (p.inputs / COLUMNS) + walk.strip;
            m[i] = reinterpret_cast<const uint8_t*>(adamw.m_exponents)[block];
            v[i] = reinterpret_cast<const uint8_t*>(adamw.v_exponents)[block];
        }
    }
};

// The others.
__device__ __forceinline__ void learn(const Block& block, const AdamwStep& step) {
    const AdamwLinearSm90Params& p = block.p;
    const uint32_t warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, depth = (p.tokens + 31) / 32 * 32;
    uint32_t turn = threadIdx.x / 128 - 1;  // stages until this team's
    Ring<STAGES> at;
    Walk walk(block.shares), ahead = walk;
    if (step.stopped) {  // then dx is wanted alone
        for (; walk.left; walk.next(), at.advance(), turn = turn ? turn - 1 : TEAMS - 1) {
            if (turn) continue;
            barrier_wait(&block.full[at.stage], at.parity);
            block.release(at.stage);
        }
        return;
    }
    const BlockFactors factors(step);
    float squares = 0.0f;
    ahead.skip(turn);
    Rows next(p, ahead);
    bool fresh = true;
#pragma unroll 1
    for (; walk.left; walk.next(), at.advance()) {
        if (fresh) {
            named_barrier(1, LEARNERS);  // all have read the strip before
            copy_strip<LEARNERS>(block.x(), p.x, p.tokens, depth, p.inputs, walk.strip, threadIdx.x - 128);
            named_barrier(1, LEARNERS);
        }
        fresh = walk.ends_strip();
        if (turn-- > 0) continue;
        turn = TEAMS - 1;
        const Rows rows = next;
        ahead.skip(TEAMS);
        next = Rows(p, ahead);
        const AdamwParams& adamw = p.layers[rows.layer].adamw;
        const Stage stage = block.stage(at);
        const uint32_t first = warp * ADAMW_ROWS + lane % 4 * 2;
        barrier_wait(&block.full[at.stage], at.parity);
        float sum[8][4] = {};
        multiply(sum, block.x(), depth, [&](uint32_t token) { return stage.dy(token, warp); });
        Lane<bf16> now[2];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            stage.read(now[row], first + row);
            now[row].m_exponent = rows.m[row], now[row].v_exponent = rows.v[row];
        }
        block.release(at.stage);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float g[LANE];
#pragma unroll
            for (int j = 0; j < LANE; j++) g[j] = sum[j % 8][j / 8 * 2 + row];
            const uint64_t i = (uint64_t)(rows.row + row) * p.inputs + walk.strip * COLUMNS + lane / 4 * 8;
            if (rows.inside) update(adamw, step, factors, squares, i, now[row], g, Whole());
        }
    }
    float* sum = reinterpret_cast<float*>(p.layers[0].adamw.squares);
    if (!sum) return;
    const double of_warp = warp_sum((double)squares);
    if (lane == 0) block.squares[threadIdx.x / 32 - 4] = of_warp;
    named_barrier(1, LEARNERS);
    if (threadIdx.x > 128) return;
    double all = 0.0;
    for (int i = 0; i < LEARNERS / 32; i++) all += block.squares[i];
    sum[blockIdx.x] += (float)all;
}

KERNEL(adamw_linear_bf16_sm90, AdamwLinearSm90Params, THREADS, 1) {
    DYNAMIC_SHARED(unsigned char, shared);
    __shared__ Barrier barriers[2 * STAGES];
    __shared__ double squares[LEARNERS / 32];
    const Block block{p, {p.shares}, shared, barriers, barriers + STAGES, squares};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&block.full[i], 1);
            barrier_init(&block.empty[i], 8);  // warps of a team, and those of the first warpgroup
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) pass_back(block);
    else learn(block, adamw_step(p.layers[0].adamw));
}

// dx [tokens, inputs], of what each block has left: threads have the elements that the first warpgroup's had. A block a quarter of a
// strip.
SMALL_KERNEL(adamw_linear_dx_sum, AdamwLinearSumParams, 128, 1) {
    constexpr uint32_t FOURS = COLUMNS / 8 / 4;
    const Shares shares{p.shares};
    const uint32_t strip = blockIdx.x / 4, first = blockIdx.x % 4 * FOURS;
    float4 sum[FOURS] = {};
    const auto add = [&](uint32_t block) {
        const float4* part = part_of(p.parts, shares.part(block, strip)) + first * 128;
#pragma unroll
        for (uint32_t i = 0; i < FOURS; i++) {
            const float4 four = part[i * 128];
            sum[i].x += four.x, sum[i].y += four.y, sum[i].z += four.z, sum[i].w += four.w;
        }
    };
    shares.each_block(strip, add);
    const uint32_t row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    bf16* dx = reinterpret_cast<bf16*>(p.dx) + strip * COLUMNS + first * 8 + threadIdx.x % 4 * 2;
#pragma unroll
    for (uint32_t i = 0; i < FOURS; i++) {
        const auto store = [&](uint32_t token, float a, float b) {
            __nv_bfloat162* to = reinterpret_cast<__nv_bfloat162*>(dx + (size_t)token * p.inputs + i * 8);
            if (token < p.tokens) *to = __floats2bfloat162_rn(a, b);
        };
        store(row, sum[i].x, sum[i].y);
        store(row + 8, sum[i].z, sum[i].w);
    }
}
