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

// The square root within 1 unit in the last place (PTX ISA, sqrt.approx.ftz): subnormals count as 0.
__device__ __forceinline__ float sqrt_approx(float x) {
#ifdef KIUNGO_EMULATOR
    return sqrtf(x);
#else
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// x / y within 2 units in the last place for 2^-126 <= |y| <= 2^126 (PTX ISA, div.approx.ftz).
__device__ __forceinline__ float divide_approx(float x, float y) {
#ifdef KIUNGO_EMULATOR
    return x / y;
#else
    float z;
    asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#endif
}
