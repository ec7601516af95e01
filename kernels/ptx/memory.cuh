// Accesses wider than a word, and the one that blocks may race for.
#pragma once
#include "kernel.cuh"

// Sixteen bytes at once, the widest access of a thread: addresses aligned to 16.
__device__ __forceinline__ uint4 load_16(const void* address) {
#ifdef KIUNGO_EMULATOR
    emulator::access(address, 16, false);  // as a whole: the compiler may report its fields one by one
#endif
    return *static_cast<const uint4*>(address);
}

__device__ __forceinline__ void store_16(void* address, uint4 value) {
#ifdef KIUNGO_EMULATOR
    emulator::access(address, 16, true);
#endif
    *static_cast<uint4*>(address) = value;
}

// at[0] = min(at[0], value): the same whoever comes first.
__device__ __forceinline__ void atomic_min(uint64_t* at, uint64_t value) {
#ifdef KIUNGO_EMULATOR
    emulator::atomic_min(at, value);
#else
    atomicMin(reinterpret_cast<unsigned long long*>(at), (unsigned long long)value);
#endif
}

// A flag in global memory that blocks tell each other by: what was written before a release is seen after the acquire
// that reads it.
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* flag) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
__device__ __forceinline__ void store_release(uint32_t* flag, uint32_t value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
