// AdamW with 8-bit moments on the weight of a linear layer, whose gradient dy^T x is never in memory: 8 bytes a weight cross
// it where a gradient written and read makes them 12. Few tokens: all of them stand in shared memory at once.
//
// A tile is 8 rows of the weight by one block of 128 moments, and a warp has it alone: mma.sync with the columns as rows of
// its result leaves the gradient in the registers in which the update needs it. Columns of x are permuted when they come to
// shared memory, so that a lane's sums belong to twice eight neighbours of two rows, whose weights and moments it reads and
// writes in vectors. Warps share x and meet only where it changes.
//
// A block of threads has neighbouring tiles, row by row of a band of strips, whose part of x it keeps, and on at the top of the
// next band; its warps take them in turn. So what is read at about the same time lies side by side in memory: a tile's own
// rows are pieces of 128 bytes of moments, by which memory is not as fast as by kilobytes.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/mma.cuh"
#include "tile/adamw_8bit.cuh"

constexpr int WARPS = KIUNGO_ADAMW_LINEAR_WARPS, THREADS = WARPS * 32;
constexpr int ROWS = KIUNGO_ADAMW_LINEAR_ROWS, COLUMNS = KIUNGO_ADAMW_BLOCK;
constexpr int PITCH = COLUMNS + 8;  // of a line of x: the eight lines that ldmatrix reads at once lie on different banks
static_assert(ROWS == 8 && COLUMNS == 128, "a lane has 16 columns of two rows");
static_assert(KIUNGO_ADAMW_LINEAR_STRIP == PITCH * sizeof(bf16), "params.h");
static_assert(KIUNGO_ADAMW_LINEAR_DY == 2 * WARPS * ROWS * sizeof(bf16), "params.h");

// The operands in shared memory: strips of x [depth, PITCH], then for each warp two tiles of dy [depth, 8]; lines beyond the
// tokens are zeros.
struct Operands {
    const AdamwLinearParams& p;
    bf16* shared;
    uint32_t depth;

    __device__ __forceinline__ bf16* x(uint32_t strip) const { return shared + strip * depth * PITCH; }
    __device__ __forceinline__ bf16* dy(uint32_t which) const {
        return shared + depth * (p.strips * PITCH + (threadIdx.x / 32 * 2 + which) * ROWS);
    }

    // Strips first..first + count, by the whole block. Column 64 s + 8 g + i goes to 16 i + 8 s + g.
    __device__ __forceinline__ void copy_x(uint32_t first, uint32_t count) const {
        constexpr uint32_t CHUNKS = COLUMNS / 8, BATCH = 4;
        const uint32_t all = count * depth * CHUNKS;
#pragma unroll 1
        for (uint32_t at = threadIdx.x; at < all; at += BATCH * THREADS) {
            uint4 eights[BATCH];
#pragma unroll
            for (uint32_t k = 0; k < BATCH; k++) {
                const uint32_t i = at + k * THREADS, line = i / CHUNKS % depth, strip = first + i / CHUNKS / depth;
                const bf16* from = reinterpret_cast<const bf16*>(p.x) + (size_t)line * p.inputs + strip * COLUMNS + i % CHUNKS * 8;
                eights[k] = i < all && line < p.tokens ? load_16(from) : uint4{};
            }
#pragma unroll
            for (uint32_t k = 0; k < BATCH; k++) {
                const uint32_t i = at + k * THREADS, chunk = i % CHUNKS;
                if (i >= all) break;
                const uint32_t words[4] = {eights[k].x, eights[k].y, eights[k].z, eights[k].w};
                uint16_t* to = reinterpret_cast<uint16_t*>(shared) + i / CHUNKS * PITCH + chunk / 8 * 8 + chunk % 8;
#pragma unroll
                for (int j = 0; j < 8; j++) to[j * 16] = (uint16_t)(words[j / 2] >> j % 2 * 16);
            }
        }
    }
    // By this warp, for itself.
    __device__ __forceinline__ void copy_dy(uint32_t tile, uint32_t which) const {
        const bf16* from = reinterpret_cast<const bf16*>(p.dy) + tile * ROWS;
#pragma unroll 1
        for (uint32_t line = threadIdx.x % 32; line < depth; line += 32) {
            const bool inside = line < p.tokens;
            cp_async_16_cached(dy(which) + line * ROWS, from + (inside ? (size_t)line * p.outputs : 0), inside ? 16 : 0);
        }
        cp_async_commit();
    }

    // Of columns 8 g + i and 64 + 8 g + i and rows 2 c and 2 c + 1, lane 4 g + c gets sum[i]: first column, both rows; second.
    __device__ __forceinline__ void multiply(uint32_t strip, uint32_t which, float (&sum)[8][4]) const {
        const uint32_t lane = threadIdx.x % 32;
        const bf16 *dy8 = dy(which) + lane * ROWS, *x8 = x(strip) + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll 1
        for (uint32_t k0 = 0; k0 < depth; k0 += 32, dy8 += 32 * ROWS) {
            uint32_t rows[4];
            ldmatrix_x4_trans(rows, dy8);
#pragma unroll
            for (int half = 0; half < 2; half++, x8 += 16 * PITCH) {
                const uint32_t b[2] = {rows[half * 2], rows[half * 2 + 1]};
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    uint32_t a[4];
                    ldmatrix_x4_trans(a, x8 + i * 16);
                    mma_m16n8k16_bf16(sum[i], a, b);
                }
            }
        }
    }
};

// A band of strips of columns, and how far in it a warp's next tile lies: tiles go row by row.
struct Band {
    uint32_t first, strips, down, across;

    __device__ __forceinline__ Band(uint32_t first, uint32_t strips)
        : first(first), strips(strips), down(WARPS / strips), across(WARPS % strips) {}
};

// A warp's tile in a band.
struct Place {
    uint32_t strip, row;

    __device__ __forceinline__ Place(const Band& band, uint32_t tile) : strip(tile % band.strips), row(tile / band.strips) {}
    __device__ __forceinline__ void advance(const Band& band) {
        strip += band.across, row += band.down;
        if (strip >= band.strips) strip -= band.strips, row++;
    }
};

// begin(band, this warp's first place, whether there is one), then visit(operands, band, place, tiles from there on that the
// block has), for each band.
template <class Begin, class Visit>
__device__ __forceinline__ void each_band(const AdamwLinearParams& p, bf16* shared, Begin begin, Visit visit) {
    const Operands operands{p, shared, (p.tokens + 31) / 32 * 32};
    const uint32_t height = p.outputs / ROWS, width = p.inputs / COLUMNS, warp = threadIdx.x / 32;
    const uint64_t tiles = (uint64_t)height * width;
    const uint32_t last = (uint32_t)(tiles * (blockIdx.x + 1) / gridDim.x);
    for (uint32_t tile = (uint32_t)(tiles * blockIdx.x / gridDim.x); tile < last;) {
        const uint32_t above = tile / (p.strips * height) * p.strips;
        const Band band(above, min(p.strips, width - above));
        const uint32_t end = min(last, (above + band.strips) * height);
        const Place place(band, tile - above * height + warp);
        const bool any = warp < end - tile;
        if (any) operands.copy_dy(place.row, 0);
        begin(band, place, any);
        operands.copy_x(band.first, band.strips);
        __syncthreads();
        if (any) visit(operands, band, place, end - tile - warp);
        __syncthreads();  // all have read the operands
        tile = end;
    }
}

template <class W> __device__ __forceinline__ void learn(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(bf16, shared);
    const AdamwStep step = adamw_step(p.adamw);
    float squares = 0.0f;
    const uint32_t lane = threadIdx.x % 32;
    // Of this lane, in the first of its two rows.
    const auto first = [&](const Band& band, const Place& place) {
        return (uint64_t)(place.row * ROWS + lane % 4 * 2) * p.inputs + (band.first + place.strip) * COLUMNS + lane / 4 * 8;
    };
    Lane<W> next[2];
    const auto load = [&](int row, const Band& band, const Place& place) {
        next[row].load(p.adamw, first(band, place) + row * p.inputs, Whole());
    };
    const auto begin = [&](const Band& band, const Place& place, bool any) {
        if (any) load(0, band, place), load(1, band, place);
    };
    each_band(p, shared, begin, [&](const Operands& operands, const Band& band, Place place, uint32_t left) {
        if (step.stopped) return;  // asked only now, for the answer comes from memory
        const BlockFactors factors(step);
        for (uint32_t which = 0;; which ^= 1) {
            cp_async_wait<0>();
            __syncwarp();
            const uint64_t i = first(band, place);
            const uint32_t strip = place.strip;
            const bool more = left > WARPS;
            if (more) {
                place.advance(band);
                operands.copy_dy(place.row, which ^ 1);
            }
            float sum[8][4] = {};
            operands.multiply(strip, which, sum);
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const Lane<W> now = next[row];
                if (more) load(row, band, place);
                float g[LANE];
#pragma unroll
                for (int j = 0; j < LANE; j++) g[j] = sum[j % 8][j / 8 * 2 + row];
                update(p.adamw, step, factors, squares, i + row * p.inputs, now, g, Whole());
            }
            if (!more) return;
            left -= WARPS;
        }
    });
    add_squares(p.adamw, squares);
}

// The sum of squares of the same gradient, alone.
__device__ __forceinline__ void measure(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(bf16, shared);
    float squares = 0.0f;
    const auto begin = [](const Band&, const Place&, bool) {};
    each_band(p, shared, begin, [&](const Operands& operands, const Band& band, Place place, uint32_t left) {
        for (uint32_t which = 0;; which ^= 1) {
            cp_async_wait<0>();
            __syncwarp();
            const uint32_t strip = place.strip;
            const bool more = left > WARPS;
            if (more) {
                place.advance(band);
                operands.copy_dy(place.row, which ^ 1);
            }
            float sum[8][4] = {};
            operands.multiply(strip, which, sum);
#pragma unroll
            for (int i = 0; i < 32; i++) squares += sum[i / 4][i % 4] * sum[i / 4][i % 4];
            if (!more) return;
            left -= WARPS;
        }
    });
    add_squares(p.adamw, squares);
}

// adamw_linear_<weights>
KERNEL(adamw_linear_f32, AdamwLinearParams, THREADS, 1) { learn<float>(p); }
KERNEL(adamw_linear_bf16, AdamwLinearParams, THREADS, 1) { learn<bf16>(p); }
KERNEL(adamw_linear_squares, AdamwLinearParams, THREADS, 1) { measure(p); }
