// FP8 E4M3 (a sign, four bits of exponent, three of mantissa; PTX ISA, "Alternate Floating-Point Data Formats"): one instruction
// for two numbers from sm_89 on, elsewhere the same bits by arithmetic.
#pragma once
#include "kernel.cuh"

#if !defined(KIUNGO_EMULATOR) && __CUDA_ARCH__ >= 890
#define KIUNGO_FP8 1
#else
#define KIUNGO_FP8 0
#endif

// The code nearest to x in the lowest byte, of two the even one; |x| below 464, where 448, the largest, ends.
__device__ __forceinline__ uint32_t e4m3_by_arithmetic(float x) {
    const float magnitude = fabsf(x);
    const uint32_t bits = __float_as_uint(magnitude), sign = __float_as_uint(x) >> 24 & 0x80u;
    // Below 2^-6 codes are multiples of 2^-9, which is the last place of what 2^14 is added to.
    if (magnitude < 0x1p-6f) return sign | (__float_as_uint(__fadd_rn(magnitude, 0x1p14f)) - __float_as_uint(0x1p14f));
    return sign | (((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3));
}

// The value of the code in the lowest byte. As a float's bits its magnitude is 2^-120 too small, subnormal or not.
__device__ __forceinline__ float e4m3_value(uint32_t code) {
    return __uint_as_float((code & 0x7fu) << 20 | (code & 0x80u) << 24) * 0x1p120f;
}

// Codes of four numbers, the first in the lowest byte.
__device__ __forceinline__ uint32_t e4m3_encode(float a, float b, float c, float d) {
#if KIUNGO_FP8
    uint32_t codes;
    asm("{\n.reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n}"
        : "=r"(codes)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return codes;
#else
    return e4m3_by_arithmetic(a) | e4m3_by_arithmetic(b) << 8 | e4m3_by_arithmetic(c) << 16 | e4m3_by_arithmetic(d) << 24;
#endif
}

// Their values.
__device__ __forceinline__ void e4m3_decode(float (&values)[4], uint32_t codes) {
#if KIUNGO_FP8
    asm("{\n.reg .b16 low, high, a, b, c, d;\n.reg .b32 two;\n"
        "mov.b32 {low, high}, %4;\n"
        "cvt.rn.f16x2.e4m3x2 two, low;\nmov.b32 {a, b}, two;\n"
        "cvt.rn.f16x2.e4m3x2 two, high;\nmov.b32 {c, d}, two;\n"
        "cvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\ncvt.f32.f16 %2, c;\ncvt.f32.f16 %3, d;\n}"
        : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
        : "r"(codes));
#else
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] = e4m3_value(codes >> 8 * i);
#endif
}
