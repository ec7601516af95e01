// Kernels with one fault each, and their correct twins: what faults.rs expects the emulator to find.
#include "kernel.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/memory.cuh"

__device__ __forceinline__ float* data(const RmsnormForwardParams& p) { return reinterpret_cast<float*>(p.x); }

template <bool BARRIER> __device__ void neighbour(const RmsnormForwardParams& p) {
    __shared__ float values[64];
    values[threadIdx.x] = threadIdx.x;
    if (BARRIER) __syncthreads();
    data(p)[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}
KERNEL(correct, RmsnormForwardParams, 64) { neighbour<true>(p); }
KERNEL(missing_barrier, RmsnormForwardParams, 64) { neighbour<false>(p); }

KERNEL(overwrite_before_read, RmsnormForwardParams, 64) {
    __shared__ float values[64];
    values[threadIdx.x] = 1.0f;
    __syncthreads();
    data(p)[threadIdx.x] = values[63 - threadIdx.x];
    values[threadIdx.x] = 2.0f;
}

KERNEL(warp_barrier_is_not_enough, RmsnormForwardParams, 64) {
    __shared__ float values[64];
    values[threadIdx.x] = 1.0f;
    __syncwarp();
    data(p)[threadIdx.x] = values[63 - threadIdx.x];
}

KERNEL(divergent_barrier, RmsnormForwardParams, 64) {
    if (threadIdx.x == 5) __syncwarp();
    __syncthreads();
}

KERNEL(divergent_shuffle, RmsnormForwardParams, 64) {
    if (threadIdx.x % 2) data(p)[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

KERNEL(out_of_bounds, RmsnormForwardParams, 64) { data(p)[threadIdx.x + 1] = 0.0f; }

KERNEL(misaligned, RmsnormForwardParams, 64) {
    if (threadIdx.x == 0) store_16(data(p) + 1, load_16(data(p)));
}

KERNEL(blocks_collide, RmsnormForwardParams, 64) { data(p)[threadIdx.x] = blockIdx.x; }

KERNEL(uninitialised_shared, RmsnormForwardParams, 64) {
    __shared__ float values[64];
    if (p.hidden == 1) values[threadIdx.x] = 1.0f;
    data(p)[threadIdx.x] = values[threadIdx.x];
}

template <bool WAIT> __device__ void copy_through_shared(const RmsnormForwardParams& p) {
    __shared__ __align__(16) float values[256];
    cp_async_16(values + 4 * threadIdx.x, data(p) + 4 * threadIdx.x, 16);
    cp_async_commit();
    if (WAIT) cp_async_wait<0>();
    data(p)[threadIdx.x * 4] = values[threadIdx.x * 4] + 1.0f;
}
KERNEL(waited_copy, RmsnormForwardParams, 64) { copy_through_shared<true>(p); }
KERNEL(copy_without_wait, RmsnormForwardParams, 64) { copy_through_shared<false>(p); }

template <bool WAIT> __device__ void copy_twice(const RmsnormForwardParams& p) {
    __shared__ __align__(16) float values[256];
    for (int i = 0; i < 2; i++) {
        cp_async_16(values + 4 * threadIdx.x, data(p) + 4 * threadIdx.x, i == 0 ? 0 : 16);
        cp_async_commit();
        if (WAIT) cp_async_wait<0>();
    }
    cp_async_wait<0>();
    data(p)[threadIdx.x * 4] = values[threadIdx.x * 4] + 1.0f;
}
KERNEL(copies_in_turn, RmsnormForwardParams, 64) { copy_twice<true>(p); }
KERNEL(copies_at_once, RmsnormForwardParams, 64) { copy_twice<false>(p); }
