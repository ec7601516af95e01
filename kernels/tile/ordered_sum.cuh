// Sums of tiles in global memory to which blocks add in a fixed order, so that they repeat to the bit; sm_90.
//
// A tile is KIUNGO_ATTENTION_PASSING floats in halves of 64 x 64. A half is rows of eight chunks of 32 bytes, chunk ^ row % 8,
// in shared memory as in global: threads put and read without bank conflicts, and a tile moves as one piece.
#pragma once
#include "kernel.cuh"
#include "ptx/flag.cuh"
#include "ptx/tma.cuh"

constexpr int SUM_TILE = KIUNGO_ATTENTION_PASSING, HALF_TILE = 64 * 64;

// Floats from a half's start to a warp's element of row `row`, column chunk * 8 + lane % 4 * 2 and the next, of wgmma's sums.
__device__ __forceinline__ uint32_t half_tile_offset(uint32_t row, uint32_t chunk) {
    return row * 64 + (chunk ^ row % 8) * 8 + threadIdx.x % 4 * 2;
}

// Puts a warp's 16 rows of sums, from `row` on, as wgmma leaves them.
__device__ __forceinline__ void put_half_tile(const float (&sum)[1][8][4], float* half, uint32_t row) {
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float* to = half + half_tile_offset(row + threadIdx.x % 32 / 4 + i * 8, chunk);
            *reinterpret_cast<float2*>(to) = make_float2(sum[0][chunk][i * 2], sum[0][chunk][i * 2 + 1]);
        }
    }
}

// Adds the same of a half in global memory that other blocks have added to.
__device__ __forceinline__ void add_half_tile(float (&sum)[1][8][4], const float* half, uint32_t row) {
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float* from = half + half_tile_offset(row + threadIdx.x % 32 / 4 + i * 8, chunk);
            const float2 two = __ldcg(reinterpret_cast<const float2*>(from));
            sum[0][chunk][i * 2] += two.x;
            sum[0][chunk][i * 2 + 1] += two.y;
        }
    }
}

// Whose turn it is to add to a tile: how many blocks have done so.
struct Turns {
    uint32_t* count;

    __device__ __forceinline__ void wait_for(uint32_t turn) const {
        if (turn == 0) return;
        while (load_acquire(count) != turn) {
        }
        async_proxy_fence_global();
    }
    __device__ __forceinline__ void pass_on(uint32_t turn) const {
        async_proxy_fence_global();
        store_release(count, turn + 1);
    }
};

// One thread: adds a tile in shared memory to `sum`, as the `turn`-th to do so; the first stores it. Arrives at `empty`
// when the tile has been read.
__device__ __forceinline__ void add_in_turn(float* sum, const float* tile, const Turns& turns, uint32_t turn, Barrier* empty) {
    turns.wait_for(turn);
    if (turn == 0) bulk_store(sum, tile, SUM_TILE * sizeof(float));
    else bulk_add(sum, tile, SUM_TILE * sizeof(float));
    tma_store_commit();
    tma_store_wait_read<0>();
    barrier_arrive(empty);
    tma_store_wait<0>();
    turns.pass_on(turn);
}
