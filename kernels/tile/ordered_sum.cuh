// Sums of tiles in global memory to which blocks add in a fixed order, so that they repeat to the bit; sm_90.
//
// A tile is KIUNGO_ATTENTION_PASSING floats in halves of 64 x 64. A half is rows of eight chunks of 32 bytes, chunk ^ row % 8,
// in shared memory as in global: threads put and read without bank conflicts, and a half moves as one piece.
#pragma once
#include "kernel.cuh"
#include "ptx/flag.cuh"
#include "ptx/tma.cuh"

constexpr int HALF_TILE = 64 * 64;

// Floats from a half's start to its row's chunk.
__device__ __forceinline__ uint32_t half_tile_offset(uint32_t row, uint32_t chunk) { return row * 64 + (chunk ^ row % 8) * 8; }

// Puts a warp's 16 rows of sums, from `row` on, as wgmma leaves them.
__device__ __forceinline__ void put_half_tile(const float (&sum)[1][8][4], float* half, uint32_t row) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int chunk = 0; chunk < 8; chunk++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float* to = half + half_tile_offset(row + lane / 4 + i * 8, chunk) + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = make_float2(sum[0][chunk][i * 2], sum[0][chunk][i * 2 + 1]);
        }
    }
}

// One thread of each block brings the block's parts from a ring of halves in shared memory.
template <int STAGES> struct OrderedSum {
    const AttentionBackwardSm90Params& p;
    const float* halves;
    Barrier *full, *empty;
    Ring<STAGES> at;
    uint32_t *before = nullptr, turn_before = 0;  // of the tile whose addition is under way

    // Adds two halves to tile `tile`, as the `turn`-th to do so; the first stores them.
    __device__ __forceinline__ void add(uint32_t tile, uint32_t turn) {
        float* sum = reinterpret_cast<float*>(p.sums) + (size_t)tile * (2 * HALF_TILE);
        uint32_t* turns = reinterpret_cast<uint32_t*>(p.turns) + tile;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            barrier_wait(&full[at.stage], at.parity);
            if (half == 0) wait_for(turns, turn);
            const float* part = halves + at.stage * HALF_TILE;
            if (turn == 0) bulk_store(sum + half * HALF_TILE, part, HALF_TILE * sizeof(float));
            else bulk_add(sum + half * HALF_TILE, part, HALF_TILE * sizeof(float));
            tma_store_commit();
            if (before || half) {
                tma_store_wait_read<1>();
                barrier_arrive(&empty[(at.stage + STAGES - 1) % STAGES]);
            }
            at.advance();
        }
        tma_store_wait<2>();
        pass_on();
        before = turns, turn_before = turn;
    }

    __device__ __forceinline__ void finish() {
        tma_store_wait<0>();
        pass_on();
    }

  private:
    static __device__ __forceinline__ void wait_for(const uint32_t* turns, uint32_t turn) {
        if (turn == 0) return;
        while (load_acquire(turns) != turn) {
        }
        async_proxy_fence_global();
    }

    __device__ __forceinline__ void pass_on() {
        if (!before) return;
        async_proxy_fence_global();
        store_release(before, turn_before + 1);
    }
};
