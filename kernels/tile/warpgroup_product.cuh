// What a warpgroup's products share with those of single warps (tile/products.cuh), and how tiles 64 wide make up rows.
#pragma once
#include "kernel.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/products.cuh"

// A row's 64 features from `panel` * 64 on, as a row of its own: an operand's tile is 64 wide.
template <class Rows> struct Panel {
    const Rows& rows;
    uint32_t panels, panel;
    __device__ __forceinline__ uint32_t count() const { return rows.count(); }
    __device__ __forceinline__ uint32_t at(uint32_t row) const { return rows.at(row) * panels + panel; }
};

// A warpgroup's accumulators as four warps' parts of a product.
template <int N> using Part = float[1][N / 8][4];
template <int N> __device__ __forceinline__ float (&flat(Part<N>& c))[N / 2] { return reinterpret_cast<float(&)[N / 2]>(c); }

// Puts a warp's 16 lines of a left side, from `line` on, into a tile of bf16 for wgmma: slabs of LINES lines of 64 columns.
template <int LINES, int N>
__device__ __forceinline__ void put_lines(const LeftSide<1, N>& c, bf16* tile, uint32_t line) {
    const uint32_t lane = threadIdx.x % 32;
    line += lane % 16;  // whose address this lane gives
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
        const uint32_t(&two)[4] = c.pairs[0][i];
        bf16* slab = tile + i / 4 * LINES * 64;
        stmatrix_x4(slab + line * 64 + ((i % 4 * 2 + lane / 16) ^ line % 8) * 8, two[0], two[1], two[2], two[3]);
    }
}
