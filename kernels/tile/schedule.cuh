// Which tile of a matrix a block works on.
#pragma once
#include "kernel.cuh"

struct TileIndex {
    uint32_t m, n;
};

// Down the columns of bands of eight tile rows: blocks that run together share rows of one operand and columns of the
// other, so both stay in L2.
__device__ __forceinline__ TileIndex tile_of(uint32_t block, uint32_t tiles_m, uint32_t tiles_n) {
    constexpr uint32_t BAND = 8;
    const uint32_t first = block / (BAND * tiles_n) * BAND;
    const uint32_t rows = min(BAND, tiles_m - first);
    const uint32_t inside = block % (BAND * tiles_n);
    return {first + inside % rows, inside / rows};
}
