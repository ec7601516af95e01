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

// The same to global memory alone, in one piece whatever stands around it: among other work the compiler cuts the store above
// into words.
__device__ __forceinline__ void store_16_global(void* address, uint4 value) {
#ifdef KIUNGO_EMULATOR
    store_16(address, value);
#else
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(value.x), "r"(value.y),
                 "r"(value.z), "r"(value.w)
                 : "memory");
#endif
}

__device__ __forceinline__ void store_8_global(void* address, uint2 value) {
#ifdef KIUNGO_EMULATOR
    *static_cast<uint2*>(address) = value;
#else
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(address)), "r"(value.x), "r"(value.y)
                 : "memory");
#endif
}

// at[0] = min(at[0], value): the same whoever comes first.
__device__ __forceinline__ void atomic_min(uint64_t* at, uint64_t value) {
#ifdef KIUNGO_EMULATOR
    emulator::atomic_min(at, value);
#else
    atomicMin(reinterpret_cast<unsigned long long*>(at), (unsigned long long)value);
#endif
}
