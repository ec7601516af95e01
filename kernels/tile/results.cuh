// What a warpgroup's sums become after wgmma.
#pragma once
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/store.cuh"
#include "tile/vector.cuh"

// 64 rows of sums, as wgmma leaves them, straight to c: 8 (float) or 4 (bf16) bytes a thread.
template <class C, int N>
__device__ __forceinline__ void store_direct(const float (&sum)[N], const GemmSm90Params& p, uint32_t m0, uint32_t n0) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const uint32_t row0 = m0 + thread / 32 * 16 + lane / 4, column0 = n0 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = row0 + half * 8;
        if (row >= p.m) continue;
        const Row<C> to{reinterpret_cast<C*>(p.c) + (size_t)row * p.n, p.n, p.accumulate != 0};
#pragma unroll
        for (int i = half; i < N / 2; i += 2) to.store(column0 + i / 2 * 8, sum[2 * i], sum[2 * i + 1]);
    }
}

// A warpgroup's tile of 64 x BN as bf16, on its way through shared memory and the copy engine, a slab of 64 columns at a
// time from two places of 8 KB in turn: lines of 128 bytes, swizzled as in tile/operand.cuh.
template <int BN> struct Staged {
    static constexpr int SLABS = BN / 64;
    static constexpr int ELEMENTS = 2 * 64 * 64;

    bf16* places;
    uint32_t barrier;  // a named barrier of the warpgroup's own
    uint32_t pairs[BN / 4];
    uint32_t m0 = 0, n0 = 0;
    bool any = false;

    __device__ __forceinline__ Staged(bf16* places, uint32_t barrier) : places(places), barrier(barrier) {}

    // Rounds the sums as wgmma leaves them.
    __device__ __forceinline__ void take(const float (&sum)[BN / 2], uint32_t row, uint32_t column) {
#pragma unroll
        for (int i = 0; i < BN / 4; i++) pairs[i] = pack(sum[2 * i], sum[2 * i + 1]);
        m0 = row, n0 = column, any = true;
    }

    // Sends a slab of what was taken last, if anything was.
    __device__ __forceinline__ void store(int slab, const TensorMap* c) {
        if (!any) return;
        const int thread = threadIdx.x % 128, lane = thread % 32;
        const int line = thread / 32 * 16 + lane % 16;  // whose address this thread gives
        bf16* to = places + slab % 2 * 64 * 64;
        if (thread == 0) tma_store_wait_read<1>();
        named_barrier(barrier, 128);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t* two = &pairs[slab * 16 + i * 4];
            stmatrix_x4(to + line * 64 + ((i * 2 + lane / 16) ^ line % 8) * 8, two[0], two[1], two[2], two[3]);
        }
        async_proxy_fence();
        named_barrier(barrier, 128);
        if (thread == 0) {
            tma_store(c, n0 + slab * 64, m0, to);
            tma_store_commit();
        }
    }

    // Shared memory must live until the copy engine has read it.
    __device__ __forceinline__ void finish() {
        if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
    }
};
