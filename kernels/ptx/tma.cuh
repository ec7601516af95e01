// The copy engine (sm_90): boxes of a tensor in global memory to and from shared memory, described by a tensor map.
// What lies outside the tensor is read as zero and not written. Coordinates: innermost first, in elements.
#pragma once
#include "kernel.cuh"
#include "ptx/mbarrier.cuh"

__device__ __forceinline__ void tma_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Loads a box; its bytes are counted by `barrier`.
__device__ __forceinline__ void tma_load(void* shared, const TensorMap* map, int column, int row, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
}

// The same into the same place of every block of the cluster that `blocks` has a bit for, counted by each one's barrier.
__device__ __forceinline__ void tma_load_multicast(void* shared, const TensorMap* map, int column, int row,
                                                   Barrier* barrier, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(blocks)
        : "memory");
}

// Stores a box, as part of this thread's open group of stores.
__device__ __forceinline__ void tma_store(const TensorMap* map, int column, int row, const void* shared) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(column), "r"(row)
                 : "memory");
}

// Closes the group of stores.
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until at most the last LEFT groups of this thread still read shared memory.
template <int LEFT> __device__ __forceinline__ void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory");
}

// Waits until at most the last LEFT groups of this thread have not yet been written.
template <int LEFT> __device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Neighbouring bytes, without a tensor map; addresses and `bytes` multiples of 16. A load is counted by `barrier`.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// A store is part of this thread's open group, as is the next, which adds each float to what stands there.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void bulk_add(float* global, const float* shared, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}

// Orders this thread's earlier writes to shared memory before what the copy engine or the tensor cores read later.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// The same of what this thread and the copy engine do in global memory, both ways.
__device__ __forceinline__ void async_proxy_fence_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
