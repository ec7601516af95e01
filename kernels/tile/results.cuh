// What a warpgroup's sums become after wgmma.
#pragma once
#include "kernel.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/store.cuh"
#include "tile/swizzle.cuh"
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

// A warpgroup's tile of 64 x BN as bf16, on its way through shared memory and the copy engine, a slab of columns at a
// time from two places in turn: lines of 128 or 64 bytes, swizzled as the copy engine does.
template <int BN> struct Staged {
    static constexpr int WIDTH = BN % 64 == 0 ? 64 : 32;  // of a slab
    static constexpr int SLABS = BN / WIDTH;
    static constexpr int PAIRS = WIDTH / 4;  // a thread, of a slab
    static constexpr int PLACE = 64 * WIDTH, ELEMENTS = 2 * PLACE;
    using Swizzled = SwizzledTile<WIDTH / 8>;

    bf16* places;
    uint32_t barrier;  // a named barrier of the warpgroup's own
    uint32_t pairs[BN / 4];
    uint32_t m0 = 0, n0 = 0, turn = 0;
    bool any = false;

    __device__ __forceinline__ Staged(bf16* places, uint32_t barrier) : places(places), barrier(barrier) {}

    // Rounds the sums as wgmma leaves them.
    __device__ __forceinline__ void take(const float (&sum)[BN / 2], uint32_t row, uint32_t column) {
#pragma unroll
        for (int i = 0; i < BN / 4; i++) pairs[i] = pack(sum[2 * i], sum[2 * i + 1]);
        m0 = row, n0 = column, any = true;
    }

    // Sends a slab of what was taken last, if anything was, from the place that the slab before did not have.
    __device__ __forceinline__ void store(int slab, const TensorMap* c) {
        if (!any) return;
        // Not slab % 2: an odd number of slabs would use one place twice in a row, from tile to tile.
        bf16* to = places + turn * PLACE;
        turn ^= 1;
        if (threadIdx.x % 128 == 0) tma_store_wait_read<1>();
        named_barrier(barrier, 128);
        put(slab, to);
        async_proxy_fence();
        named_barrier(barrier, 128);
        if (threadIdx.x % 128 == 0) {
            tma_store(c, n0 + slab * WIDTH, m0, to);
            tma_store_commit();
        }
    }

    // Sends all of it at once, each slab from a place of its own, place(slab).
    template <class Place> __device__ __forceinline__ void store_all(const TensorMap* c, Place place) {
        if (!any) return;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) put(slab, place(slab));
        async_proxy_fence();
        named_barrier(barrier, 128);
        if (threadIdx.x % 128 == 0) {
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) tma_store(c, n0 + slab * WIDTH, m0, place(slab));
            tma_store_commit();
        }
    }

    // Shared memory must live until the copy engine has read it.
    __device__ __forceinline__ void finish() {
        if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
    }

  private:
    __device__ __forceinline__ void put(int slab, bf16* to) const {
        const int lane = threadIdx.x % 32;
        const int line = threadIdx.x % 128 / 32 * 16 + lane % 16;  // whose address this thread gives
#pragma unroll
        for (int i = 0; i < PAIRS; i += 4) {
            const uint32_t* four = &pairs[slab * PAIRS + i];
            stmatrix_x4(to + Swizzled::offset(line, i / 2 + lane / 16), four[0], four[1], four[2], four[3]);
        }
    }
};
