// Where a tile's 16-byte chunks lie in shared memory, so that the eight rows that an 8x8 matrix takes at one chunk
// column, and the eight chunks of a 128-byte line, fall on different banks.
#pragma once
#include "kernel.cuh"

// A row-major tile of bf16 with CHUNKS chunks of 8 a row. Rows of less than 128 bytes share a line.
template <int CHUNKS> struct SwizzledTile {
    static_assert(CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0, "rows must fill lines of 128 bytes, or divide them");
    static constexpr int WIDTH = CHUNKS < 8 ? CHUNKS : 8;
    static constexpr int ROWS_A_LINE = 8 / WIDTH;

    // Elements from the tile's start to chunk `chunk` of row `row`.
    static __device__ __forceinline__ int offset(int row, int chunk) {
        return (row * CHUNKS + (chunk ^ (row / ROWS_A_LINE % WIDTH))) * 8;
    }
};
