// AdamW with 8-bit moments on the weight of a linear layer, whose gradient dy^T x is never in memory: 8 bytes a weight cross
// it where a gradient written and read makes them 12. Few tokens: all of them stand in shared memory at once.
//
// A tile is 16 rows of the weight by one block of 256 moments. The 16 warps of a block of threads multiply 16 columns of it
// each (mma.sync), leave the sums in shared memory, and update a row each, while the next tile's weights and moments are
// on their way. There are two such places, so that one barrier a tile parts those who write from those who read.
//
// A block of threads has neighbouring tiles, down a strip of columns, whose part of x it keeps.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "tile/adamw_8bit.cuh"
#include "tile/fragment.cuh"

constexpr int THREADS = 512, ROWS = KIUNGO_ADAMW_LINEAR_ROWS, COLUMNS = KIUNGO_ADAMW_BLOCK;
static_assert(THREADS / 32 == ROWS && ROWS == 16 && COLUMNS == 16 * ROWS, "a warp has 16 columns of products, then a row");

// The gradient of a tile. Rows begin 8 banks apart, and eights whose chunks would fall on the same banks swap theirs.
struct Gradient {
    float sums[ROWS][COLUMNS + 8];

    static __device__ __forceinline__ int at(int column) { return column ^ (column / 32 % 2 * 4); }
    __device__ __forceinline__ Eight eight(int row, int lane) const {
        const uint4 a = load_16(&sums[row][at(lane * 8)]), b = load_16(&sums[row][at(lane * 8 + 4)]);
        return unpack(Packed<float>{{a, b}});
    }
};

struct __align__(128) Shared {
    Gradient gradients[2];
    Tables tables;
};
static_assert(sizeof(Shared) == KIUNGO_ADAMW_LINEAR_SHARED && KIUNGO_ADAMW_LINEAR_TOKEN == (COLUMNS + 2 * ROWS) * sizeof(bf16), "params.h");

// The operands in shared memory: x [depth, 256], then two tiles of dy [depth, 16]; lines beyond the tokens are zeros.
struct Operands {
    using X = SwizzledTile<COLUMNS / 8>;
    using Dy = SwizzledTile<ROWS / 8>;
    const AdamwLinearParams& p;
    bf16* x;
    int depth;

    __device__ __forceinline__ bf16* dy(int which) const { return x + depth * (COLUMNS + which * ROWS); }

    // Chunk `chunk` of line `line` of a tile of a matrix, from column `first` on.
    template <class Tile>
    __device__ __forceinline__ void copy(bf16* tile, uint64_t matrix, uint32_t columns, uint32_t first, uint32_t line, uint32_t chunk) const {
        const uint32_t column = first + chunk * 8;
        const bool inside = line < p.tokens && column < columns;
        const bf16* from = reinterpret_cast<const bf16*>(matrix) + (inside ? (size_t)line * columns + column : 0);
        cp_async_16(tile + Tile::offset(line, chunk), from, inside ? 16 : 0);
    }
    __device__ __forceinline__ void copy_x(uint32_t strip) const {
        for (int i = threadIdx.x; i < depth * (COLUMNS / 8); i += THREADS) {
            copy<X>(x, p.x, p.inputs, strip * COLUMNS, i / (COLUMNS / 8), i % (COLUMNS / 8));
        }
    }
    // A chunk a thread: there are fewer tokens than half the threads.
    __device__ __forceinline__ void copy_dy(uint32_t tile, int which) const {
        const int line = threadIdx.x / (ROWS / 8);
        if (line < depth) copy<Dy>(dy(which), p.dy, p.outputs, tile * ROWS, line, threadIdx.x % (ROWS / 8));
        cp_async_commit();
    }

    // This warp's 16 columns of a tile, as two fragments.
    __device__ __forceinline__ void multiply(int which, float (&sum)[2][4]) const {
        const int columns = threadIdx.x / 32 * 16;
        const bf16 *dy16 = dy(which), *x16 = x;
#pragma unroll 4
        for (int k0 = 0; k0 < depth; k0 += 16, dy16 += 16 * ROWS, x16 += 16 * COLUMNS) {
            uint32_t a[4], b[2][2];
            fragment_a<Dy, false>(a, dy16, 0, 0);
            fragment_b<X, false>(b, x16, columns, 0);
            mma_m16n8k16_bf16(sum[0], a, b[0]);
            mma_m16n8k16_bf16(sum[1], a, b[1]);
        }
    }
};

// visit(operands, strip, begin, end) for the strips of this block of threads, and their tiles begin..end from the top.
template <class Visit> __device__ __forceinline__ void strips(const AdamwLinearParams& p, bf16* shared, Visit visit) {
    const Operands operands{p, shared, (int)(p.tokens + 15) / 16 * 16};
    const uint32_t height = (p.outputs + ROWS - 1) / ROWS;
    const uint64_t tiles = (uint64_t)height * (p.inputs / COLUMNS);
    const uint32_t last = tiles * (blockIdx.x + 1) / gridDim.x;
    for (uint32_t tile = tiles * blockIdx.x / gridDim.x; tile < last;) {
        const uint32_t strip = tile / height, begin = tile % height, end = min(begin + last - tile, height);
        operands.copy_x(strip);
        operands.copy_dy(begin, 0);
        cp_async_wait<0>();
        __syncthreads();
        visit(operands, strip, begin, end);
        __syncthreads();  // all have read the operands
        tile += end - begin;
    }
}

template <class W> __device__ __forceinline__ void learn(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(Shared, shared);
    const AdamwStep step = adamw_step(p.adamw);
    if (step.stopped) return;
    fill(shared->tables, p.adamw);
    __shared__ float squares[THREADS];
    squares[threadIdx.x] = 0.0f;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    strips(p, reinterpret_cast<bf16*>(shared + 1), [&](const Operands& operands, uint32_t strip, uint32_t begin, uint32_t end) {
        const auto multiply = [&](int which) {
            float sum[2][4] = {};
            operands.multiply(which, sum);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float* two = &shared->gradients[which].sums[i / 2 * 8 + lane / 4][Gradient::at(warp * 16 + i % 2 * 8 + lane % 4 * 2)];
                *reinterpret_cast<float2*>(two) = make_float2(sum[i % 2][i / 2 * 2], sum[i % 2][i / 2 * 2 + 1]);
            }
        };
        // This warp's row of a tile, and its block of moments.
        uint32_t row = begin * ROWS + warp;
        const uint32_t below = min(end * ROWS, p.outputs), width = p.inputs / COLUMNS;
        uint64_t block = (uint64_t)row * width + strip;
        Block<W> now, next = {};
        if (row < below) next.load(p.adamw, block, Whole());
        if (begin + 1 < end) operands.copy_dy(begin + 1, 1);
        multiply(0);
        for (uint32_t tile = begin; tile < end; tile++, row += ROWS, block += ROWS * width) {
            const int which = (tile - begin) % 2;
            cp_async_wait<0>();
            __syncthreads();  // this tile's gradient and the next one's dy are there; the places of those before are free
            if (tile + 2 < end) operands.copy_dy(tile + 2, which);
            now = next;
            if (row + ROWS < below) next.load(p.adamw, block + ROWS * width, Whole());
            if (tile + 1 < end) multiply(which ^ 1);
            if (row < below) {
                const Eight g = shared->gradients[which].eight(warp, lane);
                update(p.adamw, step, shared->tables, squares, block, now, g, Whole());
            }
        }
    });
    add_squares(p.adamw, squares[threadIdx.x]);
}

// The sum of squares of the same gradient, alone.
__device__ __forceinline__ void measure(const AdamwLinearParams& p) {
    DYNAMIC_SHARED(bf16, shared);
    float squares = 0.0f;
    strips(p, shared, [&](const Operands& operands, uint32_t, uint32_t begin, uint32_t end) {
        for (uint32_t tile = begin; tile < end; tile++) {
            const int which = (tile - begin) % 2;
            if (tile + 1 < end) operands.copy_dy(tile + 1, which ^ 1);
            float sum[2][4] = {};
            operands.multiply(which, sum);
#pragma unroll
            for (int i = 0; i < 8; i++) squares += sum[i / 4][i % 4] * sum[i / 4][i % 4];
            cp_async_wait<0>();
            __syncthreads();
        }
    });
    add_squares(p.adamw, squares);
}

// adamw_linear_<weights>
KERNEL(adamw_linear_f32, AdamwLinearParams, THREADS, 1) { learn<float>(p); }
KERNEL(adamw_linear_bf16, AdamwLinearParams, THREADS, 1) { learn<bf16>(p); }
KERNEL(adamw_linear_squares, AdamwLinearParams, THREADS, 1) { measure(p); }
