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

// Orders this thread's earlier writes to shared memory before what the copy engine or the tensor cores read later.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
