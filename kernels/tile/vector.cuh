// Eight neighbours of an array at a time: 16 bytes of bf16, 32 of float.
#pragma once
#include "kernel.cuh"
#include "ptx/memory.cuh"

struct Eight {
    float v[8];
};

__device__ __forceinline__ Eight load_eight(const float* x) {
    const uint4 a = load_16(x), b = load_16(x + 4);
    return {__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z), __uint_as_float(a.w),
            __uint_as_float(b.x), __uint_as_float(b.y), __uint_as_float(b.z), __uint_as_float(b.w)};
}

__device__ __forceinline__ Eight load_eight(const bf16* x) {
    const uint4 a = load_16(x);
    const uint32_t pairs[4] = {a.x, a.y, a.z, a.w};
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e.v[2 * i] = __uint_as_float(pairs[i] << 16);
        e.v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
    return e;
}

__device__ __forceinline__ uint32_t pack(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ void store_eight(float* y, const Eight& e) {
    uint32_t bits[8];
#pragma unroll
    for (int i = 0; i < 8; i++) bits[i] = __float_as_uint(e.v[i]);
    store_16(y, make_uint4(bits[0], bits[1], bits[2], bits[3]));
    store_16(y + 4, make_uint4(bits[4], bits[5], bits[6], bits[7]));
}

__device__ __forceinline__ void store_eight(bf16* y, const Eight& e) {
    store_16(y, make_uint4(pack(e.v[0], e.v[1]), pack(e.v[2], e.v[3]), pack(e.v[4], e.v[5]), pack(e.v[6], e.v[7])));
}

// The same at elements i..i + 8 of `count`: zeros are read, and nothing is written, beyond the end.
template <class T> __device__ __forceinline__ Eight load_eight(const T* x, uint64_t i, uint64_t count) {
    if (i + 8 <= count) return load_eight(x + i);
    Eight e;
#pragma unroll
    for (int j = 0; j < 8; j++) e.v[j] = i + j < count ? to_float(x[i + j]) : 0.0f;
    return e;
}

template <class T> __device__ __forceinline__ void store_eight(T* y, uint64_t i, uint64_t count, const Eight& e) {
    if (i + 8 <= count) return store_eight(y + i, e);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (i + j < count) y[i + j] = from_float<T>(e.v[j]);
    }
}

// The first of this thread's eight elements.
__device__ __forceinline__ uint64_t my_eight() { return ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8; }
