// Approximate functions of the special function units, and what bits say.
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

// 1 / x within 1 unit in the last place (PTX ISA, rcp.approx.ftz).
__device__ __forceinline__ float reciprocal_approx(float x) {
#ifdef KIUNGO_EMULATOR
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// a b + c of two bf16 each, rounded once.
__device__ __forceinline__ uint32_t multiply_add_pairs(uint32_t a, uint32_t b, uint32_t c) {
#ifdef KIUNGO_EMULATOR
    // A product of two bf16 is exact in float, and its sum with a third in double.
    const auto one = [](uint32_t a, uint32_t b, uint32_t c) {
        const double sum = (double)__uint_as_float(a) * __uint_as_float(b) + __uint_as_float(c);
        return (uint32_t)__float2bfloat16((float)sum).bits;
    };
    const uint32_t high = 0xffff0000u;
    return one(a << 16, b << 16, c << 16) | one(a & high, b & high, c & high) << 16;
#else
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}
