// Sixteen bytes at once, the widest access of a thread: addresses aligned to 16.
#pragma once
#include "kernel.cuh"

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
