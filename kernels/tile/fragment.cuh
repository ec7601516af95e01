// Operands of mma.sync from a swizzled tile in shared memory.
#pragma once
#include "kernel.cuh"
#include "ptx/mma.cuh"
#include "tile/swizzle.cuh"

// The 16x16 at (row0, k0) of a tile whose lines run along k (K_MAJOR) or along the rows, as an a-fragment: registers hold
// rows 0-7 and 8-15 of k 0-7, then of k 8-15.
template <class Tile, bool K_MAJOR>
__device__ __forceinline__ void fragment_a(uint32_t (&a)[4], const bf16* tile, int row0, int k0) {
    const int lane = threadIdx.x % 32, high = lane / 16, middle = lane / 8 % 2;
    if (K_MAJOR) {
        ldmatrix_x4(a, tile + Tile::offset(row0 + lane % 16, k0 / 8 + high));
    } else {
        ldmatrix_x4_trans(a, tile + Tile::offset(k0 + lane % 8 + high * 8, row0 / 8 + middle));
    }
}

// The same as two b-fragments, of rows 0-7 and of 8-15: the registers of each are neighbours, as mma wants them, so that
// none must be moved.
template <class Tile, bool K_MAJOR>
__device__ __forceinline__ void fragment_b(uint32_t (&b)[2][2], const bf16* tile, int row0, int k0) {
    const int lane = threadIdx.x % 32, high = lane / 16, middle = lane / 8 % 2;
    uint32_t registers[4];
    if (K_MAJOR) {
        ldmatrix_x4(registers, tile + Tile::offset(row0 + lane % 8 + high * 8, k0 / 8 + middle));
    } else {
        ldmatrix_x4_trans(registers, tile + Tile::offset(k0 + lane % 16, row0 / 8 + high));
    }
    b[0][0] = registers[0], b[0][1] = registers[1], b[1][0] = registers[2], b[1][1] = registers[3];
}
