// The thread's index.
#pragma once
#include "kernel.cuh"

// threadIdx.x, read anew at each call: what is computed from it is not kept in registers from one round of a loop to the
// next, as the compiler keeps the addresses of fragments and copies even where that makes it spill.
__device__ __forceinline__ uint32_t fresh_thread() {
#ifdef KIUNGO_EMULATOR
    return threadIdx.x;
#else
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
#endif
}
