// Blocks of a cluster, which run together and reach each other's shared memory (sm_90).
#pragma once
#include "kernel.cuh"

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of all blocks of the cluster; what they wrote before is seen after. Not the .aligned form: the threads of
// a warp may come one by one, from branches of their own.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
__device__ __forceinline__ void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

// Four floats from block `rank`'s copy of a shared address.
__device__ __forceinline__ float4 load_shared_of(const float* shared, uint32_t rank) {
    float4 v;
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n"
        "}"
        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
        : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "r"(rank)
        : "memory");
    return v;
}

// Four floats to block `rank`'s copy of a shared address.
__device__ __forceinline__ void store_shared_of(float4* shared, uint32_t rank, float4 v) {
    asm volatile(
        "{\n"
        ".reg .b32 remote;\n"
        "mapa.shared::cluster.u32 remote, %0, %1;\n"
        "st.shared::cluster.v4.f32 [remote], {%2, %3, %4, %5};\n"
        "}" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
        : "memory");
}
