// A warp's tile of the gradient dy^T x of a linear layer's weight, 8 rows by a strip of 128 columns, with few tokens all at once:
// mma.sync with the columns as rows of its result leaves the gradient in the registers in which adamw_8bit.cuh needs it. Columns
// of x are permuted when they come to shared memory, so that a lane's sums belong to twice eight neighbours of two rows.
#pragma once
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

constexpr uint32_t ADAMW_ROWS = 8;
// Of a line of x, in elements: the eight lines that ldmatrix reads at once lie on different banks.
constexpr uint32_t PITCH = KIUNGO_ADAMW_BLOCK + 8;

// x's columns of a strip to shared memory [depth, PITCH], by THREADS threads of which this is `thread`; lines beyond the tokens are
// zeros. Column 64 s + 8 g + i goes to 16 i + 8 s + g.
template <int THREADS>
__device__ __forceinline__ void copy_strip(bf16* shared, uint64_t x, uint32_t tokens, uint32_t depth, uint32_t inputs, uint32_t strip,
                                           uint32_t thread) {
    constexpr uint32_t CHUNKS = KIUNGO_ADAMW_BLOCK / 8, BATCH = 4;
    const uint32_t all = depth * CHUNKS;
#pragma unroll 1
    for (uint32_t at = thread; at < all; at += BATCH * THREADS) {
        uint4 eights[BATCH];
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++) {
            const uint32_t i = at + k * THREADS, line = i / CHUNKS;
            const bf16* from = reinterpret_cast<const bf16*>(x) + (size_t)line * inputs + strip * KIUNGO_ADAMW_BLOCK;
            eights[k] = i < all && line < tokens ? load_16(from + i % CHUNKS * 8) : uint4{};
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

// Of columns 8 g + i and 64 + 8 g + i and rows 2 c and 2 c + 1, lane 4 g + c gets sum[i]: first column, both rows; second.
// dy(token): the line of the tile's rows.
template <class Dy>
__device__ __forceinline__ void multiply(float (&sum)[8][4], const bf16* x, uint32_t depth, Dy dy) {
    const uint32_t lane = threadIdx.x % 32;
    const bf16* x8 = x + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll 1
    for (uint32_t k0 = 0; k0 < depth; k0 += 32) {
        uint32_t rows[4];
        ldmatrix_x4_trans(rows, dy(k0 + lane));
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
