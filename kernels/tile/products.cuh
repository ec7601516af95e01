// Products of tiles in shared memory on the tensor cores, one warp's part, and their results on the way back.
//
// A warp's part of a product is float c[M_TILES][N / 8][4]: M_TILES * 16 rows and N columns, as mma.cuh lays out c.
#pragma once
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"
#include "ptx/thread.cuh"
#include "tile/swizzle.cuh"
#include "tile/vector.cuh"

// A tile of bf16 with rows of WIDTH elements. A row is a power of two and at least 128 bytes long, and blocks of 16
// by 16 begin at multiples of 16, so the offset of (row0 + r, column0 + c) is row0 * WIDTH + (offset(r, c) ^ column0):
// what depends on the lane is computed once, for all blocks of the tile.
template <int WIDTH> struct FragmentTile {
    static_assert(WIDTH == 64 || WIDTH == 128, "the width must be a power of two whose bits the swizzle leaves in a row");
    static constexpr int CHUNKS = WIDTH / 8;

    static __device__ __forceinline__ int offset(int row, int chunk) { return SwizzledTile<CHUNKS>::offset(row, chunk); }

    // The 16 rows of m, from first + row0 on, and 16 columns of k of an a-fragment.
    static __device__ __forceinline__ void load_a(uint32_t (&fragment)[4], const bf16* tile, int first, int row0, int column0,
                                                  uint32_t lane) {
        ldmatrix_x4(fragment, tile + row0 * WIDTH + (first * WIDTH + offset(lane % 16, lane / 16) ^ column0));
    }
    // The same of 16 rows of k, from row0 on, and 16 columns of m.
    static __device__ __forceinline__ void load_a_trans(uint32_t (&fragment)[4], const bf16* tile, int row0, int column0,
                                                        uint32_t lane) {
        ldmatrix_x4_trans(fragment, tile + row0 * WIDTH + (offset(lane % 8 + lane / 16 * 8, lane / 8 % 2) ^ column0));
    }
    // Two b-fragments, one behind the other, of 16 rows of n and 16 columns of k.
    static __device__ __forceinline__ void load_b(uint32_t (&fragment)[4], const bf16* tile, int row0, int column0, uint32_t lane) {
        ldmatrix_x4(fragment, tile + row0 * WIDTH + (offset(lane % 8 + lane / 16 * 8, lane / 8 % 2) ^ column0));
    }
    // The same of 16 rows of k and 16 columns of n.
    static __device__ __forceinline__ void load_b_trans(uint32_t (&fragment)[4], const bf16* tile, int row0, int column0, uint32_t lane) {
        ldmatrix_x4_trans(fragment, tile + row0 * WIDTH + (offset(lane % 16, lane / 16) ^ column0));
    }
};

// Two neighbouring fragments of c, 16 columns. The halves of b are registers in a row, as mma wants them: no moves.
__device__ __forceinline__ void multiply_pair(float (&left)[4], float (&right)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    mma_m16n8k16_bf16(left, a, first);
    mma_m16n8k16_bf16(right, a, second);
}

// c = a b^T: a are M_TILES * 16 rows of a tile from a_row on, b all N rows of a tile; both WIDTH wide.
template <int WIDTH, int M_TILES, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[M_TILES][N / 8][4], const bf16* a, int a_row, const bf16* b) {
    using Tile = FragmentTile<WIDTH>;
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int i = 0; i < M_TILES; i++) {
#pragma unroll
        for (int j = 0; j < N / 8; j++) c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0.0f;
    }
#pragma unroll
    for (int k0 = 0; k0 < WIDTH; k0 += 16) {
        uint32_t fa[M_TILES][4];
#pragma unroll
        for (int i = 0; i < M_TILES; i++) Tile::load_a(fa[i], a, a_row, i * 16, k0, lane);
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            uint32_t fb[4];
            Tile::load_b(fb, b, j * 16, k0, lane);
#pragma unroll
            for (int i = 0; i < M_TILES; i++) multiply_pair(c[i][2 * j], c[i][2 * j + 1], fa[i], fb);
        }
    }
}

// A product rounded to bf16. Its layout is that of a-fragments: what one product left is the left side of the next.
template <int M_TILES, int N> struct LeftSide {
    uint32_t pairs[M_TILES][N / 16][4];

    LeftSide() = default;
    __device__ __forceinline__ explicit LeftSide(const float (&c)[M_TILES][N / 8][4]) {
#pragma unroll
        for (int i = 0; i < M_TILES * 2; i++) set_row(i, c);
    }
    // Row i * 8 + lane / 4 of the warp's.
    __device__ __forceinline__ void set_row(int i, const float (&c)[M_TILES][N / 8][4]) {
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            const float* two = &c[i / 2][j][i % 2 * 2];
            pairs[i / 2][j / 2][j % 2 * 2 + i % 2] = pack(two[0], two[1]);
        }
    }
};

// c += a b; b are the K rows of a tile, WIDTH wide.
template <int WIDTH, int M_TILES, int K>
__device__ __forceinline__ void add_product(float (&c)[M_TILES][WIDTH / 8][4], const LeftSide<M_TILES, K>& a, const bf16* b) {
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
#pragma unroll
        for (int j = 0; j < WIDTH / 16; j++) {
            uint32_t fb[4];
            FragmentTile<WIDTH>::load_b_trans(fb, b, k * 16, j * 16, lane);
#pragma unroll
            for (int i = 0; i < M_TILES; i++) multiply_pair(c[i][2 * j], c[i][2 * j + 1], a.pairs[i][k], fb);
        }
    }
}

// c += a^T b: the K rows of two tiles; a A_WIDTH wide, of which M_TILES * 16 columns count, b WIDTH wide, of which N from
// `column` on.
template <int A_WIDTH, int WIDTH, int K, int M_TILES, int N>
__device__ __forceinline__ void add_columns(float (&c)[M_TILES][N][4], const bf16* a, const bf16* b, int column) {
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int k0 = 0; k0 < K; k0 += 16) {
        uint32_t fa[M_TILES][4];
#pragma unroll
        for (int i = 0; i < M_TILES; i++) FragmentTile<A_WIDTH>::load_a_trans(fa[i], a, k0, i * 16, lane);
#pragma unroll
        for (int j = 0; j < N / 2; j++) {
            uint32_t fb[4];
            FragmentTile<WIDTH>::load_b_trans(fb, b, k0, column + j * 16, lane);
#pragma unroll
            for (int i = 0; i < M_TILES; i++) multiply_pair(c[i][2 * j], c[i][2 * j + 1], fa[i], fb);
        }
    }
}

// Starts copying rows first, first + 1, ... of matrices to tiles that follow each other. `Rows` says where row i of each
// matrix lies; rows from its count on arrive as zeros. Called by THREADS threads, of which this is number `thread`.
template <int WIDTH, int ROWS, int THREADS, class Rows, class... Matrices>
__device__ __forceinline__ void copy_rows_by(uint32_t thread, bf16* tile, const Rows& rows, uint32_t first,
                                             Matrices... matrices) {
    constexpr int CHUNKS = WIDTH / 8, STEP = THREADS / CHUNKS;
    static_assert(ROWS % STEP == 0, "all threads copy as much");
    const uint64_t from[] = {matrices...};
    const uint32_t chunk = thread % CHUNKS;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const uint32_t line = thread / CHUNKS + i * STEP, row = first + line;
        const size_t at = (size_t)rows.at(row) * WIDTH + chunk * 8;  // not read where the count is 0
#pragma unroll
        for (int m = 0; m < (int)sizeof...(matrices); m++) {
            bf16* to = tile + m * ROWS * WIDTH + FragmentTile<WIDTH>::offset(line, chunk);
            cp_async_16(to, reinterpret_cast<const bf16*>(from[m]) + at, row < rows.count() ? 16 : 0);
        }
    }
}

// The same by all threads of a block.
template <int WIDTH, int ROWS, int THREADS, class Rows, class... Matrices>
__device__ __forceinline__ void copy_rows(bf16* tile, const Rows& rows, uint32_t first, Matrices... matrices) {
    copy_rows_by<WIDTH, ROWS, THREADS>(fresh_thread(), tile, rows, first, matrices...);
}

// Puts a warp's part of a product, rounded, into a tile with its first element at (row, column), a multiple of 16 each.
template <int WIDTH, int M_TILES, int N>
__device__ __forceinline__ void put(const float (&c)[M_TILES][N][4], bf16* tile, int row, int column) {
    const uint32_t lane = fresh_thread() % 32;
#pragma unroll
    for (int i = 0; i < M_TILES * 2; i++) {
        bf16* line = tile + (row + i * 8) * WIDTH + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float* two = &c[i / 2][j][i % 2 * 2];
            bf16* at = line + (FragmentTile<WIDTH>::offset(lane / 4, j) ^ column);
            *reinterpret_cast<uint32_t*>(at) = pack(two[0], two[1]);
        }
    }
}

// Stores ROWS rows of a tile as rows first, first + 1, ... of a matrix, but those from the count on; `thread` of THREADS. The
// matrix' rows are PITCH long, and at least as long as the tile's.
template <int WIDTH, int ROWS, int THREADS, int PITCH = WIDTH, class Rows>
__device__ __forceinline__ void store_tile(const bf16* tile, uint64_t matrix, const Rows& rows, uint32_t first, uint32_t thread) {
    constexpr int CHUNKS = WIDTH / 8, STEP = THREADS / CHUNKS;
    static_assert(ROWS % STEP == 0, "all threads store as much");
    bf16* column = reinterpret_cast<bf16*>(matrix) + thread % CHUNKS * 8;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const uint32_t row = thread / CHUNKS + i * STEP;
        const uint4 eight = load_16(tile + FragmentTile<WIDTH>::offset(row, thread % CHUNKS));
        if (first + row < rows.count()) store_16(column + (size_t)rows.at(first + row) * PITCH, eight);
    }
}

// Stores a warp's rows first, first + 1, ... of a matrix. They pass through the warp's own rows of a tile, from tile_row
// on, so that memory gets 16 bytes a lane.
template <int WIDTH, int M_TILES, class Rows>
__device__ __forceinline__ void store_rows(const float (&c)[M_TILES][WIDTH / 8][4], bf16* tile, int tile_row, uint64_t matrix,
                                           const Rows& rows, uint32_t first) {
    __syncwarp();  // the lanes have read what was there
    put<WIDTH, M_TILES>(c, tile, tile_row, 0);
    __syncwarp();
    store_tile<WIDTH, M_TILES * 16, 32>(tile + tile_row * WIDTH, matrix, rows, first, fresh_thread() % 32);
}
