// AdamW with 8-bit moments on the weight of a linear layer, whose gradient dy^T x is never in memory: 8 bytes a weight cross
// it where a gradient written and read makes them 12. Few tokens: all of them stand in shared memory at once.
//
// A tile is 8 rows of the weight by one block of 128 moments, and a warp has it alone, as adamw_product.cuh says; a lane reads and
// writes its weights and moments in vectors. Warps share x and meet only where it changes.
//
// A block of threads has neighbouring tiles, down a strip of columns and on at the top of the next one; its warps take them in
// turn, each with its next tile's weights and moments on their way.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "tile/adamw_8bit.cuh"
#include "tile/adamw_product.cuh"

constexpr int WARPS = KIUNGO_ADAMW_LINEAR_WARPS, THREADS = WARPS * 32;
constexpr int ROWS = KIUNGO_ADAMW_LINEAR_ROWS, COLUMNS = KIUNGO_ADAMW_BLOCK;
constexpr int STRIPS = 2;  // whose part of x a block has at once
static_assert(ROWS == ADAMW_ROWS && COLUMNS == 128, "a lane has 16 columns of two rows");
static_assert(KIUNGO_ADAMW_LINEAR_TOKEN == (STRIPS * PITCH + 2 * WARPS * ROWS) * sizeof(bf16), "params.h");

// The operands in shared memory: strips of x [depth, PITCH], then for each warp two tiles of dy [depth, 8]; lines beyond the
// tokens are zeros.
struct Operands {
    const AdamwLinearParams& p;
    bf16* shared;
    uint32_t depth;

    __device__ __forceinline__ bf16* x(uint32_t strip) const { return shared + strip * depth * PITCH; }
    __device__ __forceinline__ bf16* dy(uint32_t which) const {
        return shared + depth * (STRIPS * PITCH + (threadIdx.x / 32 * 2 + which) * ROWS);
    }

    // Strips first..first + count, by the whole block.
    __device__ __forceinline__ void copy_x(uint32_t first, uint32_t count) const {
        for (uint32_t i = 0; i < count; i++) copy_strip<THREADS>(x(i), p.x, p.tokens, depth, p.inputs, first + i, threadIdx.x);
    }
    // By this warp, for itself.
    __device__ __forceinline__ void copy_dy(uint32_t tile, uint32_t which) const {
        const bf16* from = reinterpret_cast<const bf16*>(p.dy) + tile * ROWS;
#pragma unroll 1
        for (uint32_t line = threadIdx.x % 32; line < depth; line += 32) {
            const bool inside = line < p.tokens;
            cp_async_16(dy(which) + line * ROWS, from + (inside ? (size_t)line * p.outputs : 0), inside ? 16 : 0);
        }
        cp_async_commit();
    }

    __device__ __forceinline__ void multiply(uint32_t strip, uint32_t which, float (&sum)[8][4]) const {
        const bf16* rows = dy(which);
        ::multiply(sum, x(strip), depth, [&](uint32_t token) { return rows + token * ROWS; });
    }
};

// A warp's tile.
struct Place {
    uint32_t strip, row;

    // So many tiles further down, and on in the next strip.
    __device__ __forceinline__ void advance(uint32_t height, uint32_t by) {
        for (row += by; row >= height; row -= height) strip++;
    }
};

// begin(this warp's first place, whether there is one), then visit(operands, first strip, place, tiles from there on that the
// block has), for every few strips.
template <class Begin, class Visit>
__device__ __forceinline__ void each_strips(const AdamwLinearParams& p, bf16* shared, Begin begin, Visit visit) {
    const Operands operands{p, shared, (p.tokens + 31) / 32 * 32};
    const uint32_t height = p.outputs / ROWS, warp = threadIdx.x / 32;
    const uint64_t tiles = (uint64_t)height * (p.inputs / COLUMNS);
    const uint32_t last = (uint32_t)(tiles * (blockIdx.x + 1) / gridDim.x);
    for (uint32_t tile = (uint32_t)(tiles * blockIdx.x / gridDim.x); tile < last;) {
        const uint32_t strip = tile / height;
        const uint32_t end = (uint32_t)min((uint64_t)last, (uint64_t)(strip + STRIPS) * height);
        Place place{strip, tile % height};
        place.advance(height, warp);
        const bool any = warp < end - tile;
        if (any) operands.copy_dy(place.row, 0);
        begin(place, any);
        operands.copy_x(strip, (end + height - 1) / height - strip);
        cp_async_wait<0>();
        __syncthreads();
        if (any) visit(operands, strip, place, end - tile - warp);
        __syncthreads();  // all have read the operands
        tile = end;
    }
}

// body(place, the next one, whether there is one, gradient) for this warp's tiles, with dy of the next one on its way.
template <class Body>
__device__ __forceinline__ void each_tile(const Operands& operands, uint32_t strip, Place place, uint32_t left, Body body) {
    for (uint32_t which = 0;; which ^= 1) {
        cp_async_wait<0>();
        __syncwarp();
        const Place now = place;
        const bool more = left > WARPS;
        if (more) {
            place.advance(operands.p.outputs / ROWS, WARPS);
            operands.copy_dy(place.row, which ^ 1);
        }
        float sum[8][4] = {};
        operands.multiply(now.strip - strip, which, sum);
        body(now, place, more, sum);
        if (!more) return;
        left -= WARPS;
    }
}

template <class W> __device__ __forceinline__ void learn(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(bf16, shared);
    const AdamwStep step = adamw_step(p.adamw);
    float squares = 0.0f;
    Lane<W> next[2];
    // Of this lane, in one of its two rows.
    const auto element = [&](const Place& place, int row) {
        const uint32_t lane = threadIdx.x % 32;
        return (uint64_t)(place.row * ROWS + lane % 4 * 2 + row) * p.inputs + place.strip * COLUMNS + lane / 4 * 8;
    };
    const auto load = [&](const Place& place, int row) { next[row].load(p.adamw, element(place, row), Whole()); };
    const auto begin = [&](const Place& place, bool any) {
        if (any) load(place, 0), load(place, 1);
    };
    each_strips(p, shared, begin, [&](const Operands& operands, uint32_t strip, const Place& place, uint32_t left) {
        if (step.stopped) return;  // asked only now, for the answer comes from memory
        const BlockFactors factors(step);
        each_tile(operands, strip, place, left, [&](const Place& now, const Place& then, bool more, float (&sum)[8][4]) {
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const Lane<W> lane = next[row];
                if (more) load(then, row);
                float g[LANE];
#pragma unroll
                for (int j = 0; j < LANE; j++) g[j] = sum[j % 8][j / 8 * 2 + row];
                update(p.adamw, step, factors, squares, element(now, row), lane, g, Whole());
            }
        });
    });
    add_squares(p.adamw, squares);
}

// The sum of squares of the same gradient, alone.
__device__ __forceinline__ void measure(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(bf16, shared);
    float squares = 0.0f;
    const auto begin = [](const Place&, bool) {};
    each_strips(p, shared, begin, [&](const Operands& operands, uint32_t strip, const Place& place, uint32_t left) {
        each_tile(operands, strip, place, left, [&](const Place&, const Place&, bool, float (&sum)[8][4]) {
#pragma unroll
            for (int i = 0; i < 32; i++) squares += sum[i / 4][i % 4] * sum[i / 4][i % 4];
        });
    });
    add_squares(p.adamw, squares);
}

// adamw_linear_<weights>
KERNEL(adamw_linear_f32, AdamwLinearParams, THREADS, 1) { learn<float>(p); }
KERNEL(adamw_linear_bf16, AdamwLinearParams, THREADS, 1) { learn<bf16>(p); }
KERNEL(adamw_linear_squares, AdamwLinearParams, THREADS, 1) { measure(p); }
