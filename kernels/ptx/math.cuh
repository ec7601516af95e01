// Approximate functions of the special function units.
#pragma once
#include "kernel.cuh"

// 2^x within 2 units in the last place (PTX ISA, ex2.approx.ftz); minus infinity gives 0.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef KIUNGO_EMULATOR
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}
