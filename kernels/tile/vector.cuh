// Eight neighbours of an array at a time: 16 bytes of bf16, 32 of float.
//
// An array whose length is no multiple of eight ends in a part of one. Kernels over elements have their body twice: for
// Whole eights, whose loads stand in one piece of straight code and so are on their way together, and for a Ragged one.
// Rows of such a length begin where 16 bytes cannot be read: kernels over rows take those element by element.
#pragma once
#include "kernel.cuh"
#include "ptx/memory.cuh"

struct Eight {
    float v[8];
};
struct Whole {};
struct Ragged {};

// Eight neighbours as they lie in memory: what is held while loads are on their way, at half the registers if bf16.
template <class T> struct Packed {
    uint4 words[sizeof(T) / 2];
};

template <class T> __device__ __forceinline__ Packed<T> load_packed(const T* x) {
    Packed<T> p;
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) p.words[i] = load_16(x + i * (16 / sizeof(T)));
    return p;
}

template <class T> __device__ __forceinline__ void store_packed(T* y, const Packed<T>& p) {
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) store_16(y + i * (16 / sizeof(T)), p.words[i]);
}

__device__ __forceinline__ uint32_t pack(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ uint4 float_bits(float a, float b, float c, float d) {
    return make_uint4(__float_as_uint(a), __float_as_uint(b), __float_as_uint(c), __float_as_uint(d));
}

// Rounds to T.
template <class T> __device__ __forceinline__ Packed<T> packed(const Eight& e);
template <> __device__ __forceinline__ Packed<float> packed(const Eight& e) {
    return {{float_bits(e.v[0], e.v[1], e.v[2], e.v[3]), float_bits(e.v[4], e.v[5], e.v[6], e.v[7])}};
}
template <> __device__ __forceinline__ Packed<bf16> packed(const Eight& e) {
    return {{make_uint4(pack(e.v[0], e.v[1]), pack(e.v[2], e.v[3]), pack(e.v[4], e.v[5]), pack(e.v[6], e.v[7]))}};
}

__device__ __forceinline__ Eight unpack(const Packed<float>& p) {
    const uint4 a = p.words[0], b = p.words[1];
    return {__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z), __uint_as_float(a.w),
            __uint_as_float(b.x), __uint_as_float(b.y), __uint_as_float(b.z), __uint_as_float(b.w)};
}
__device__ __forceinline__ Eight unpack(const Packed<bf16>& p) {
    const uint32_t pairs[4] = {p.words[0].x, p.words[0].y, p.words[0].z, p.words[0].w};
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e.v[2 * i] = __uint_as_float(pairs[i] << 16);
        e.v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
    return e;
}

template <class T> __device__ __forceinline__ Eight load_eight(const T* x) { return unpack(load_packed(x)); }
template <class T> __device__ __forceinline__ void store_eight(T* y, const Eight& e) { store_packed(y, packed<T>(e)); }

// The same at elements i..i + 8 of `count`: beyond the end zeros are read and nothing is written. Whole: i and count
// are multiples of eight.
template <class T> __device__ __forceinline__ Packed<T> load_packed(Whole, const T* x, uint64_t i, uint64_t count) {
    if (i < count) return load_packed(x + i);
    return {};
}
template <class T> __device__ __forceinline__ Packed<T> load_packed(Ragged, const T* x, uint64_t i, uint64_t count) {
    Eight e;
#pragma unroll
    for (int j = 0; j < 8; j++) e.v[j] = i + j < count ? to_float(x[i + j]) : 0.0f;
    return packed<T>(e);
}
template <class Kind, class T>
__device__ __forceinline__ Eight load_eight(Kind kind, const T* x, uint64_t i, uint64_t count) {
    return unpack(load_packed(kind, x, i, count));
}

template <class T>
__device__ __forceinline__ void store_packed(Whole, T* y, uint64_t i, uint64_t count, const Packed<T>& packed) {
    if (i < count) store_packed(y + i, packed);
}
template <class T>
__device__ __forceinline__ void store_packed(Ragged, T* y, uint64_t i, uint64_t count, const Packed<T>& packed) {
    const T* eight = reinterpret_cast<const T*>(&packed);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (i + j < count) y[i + j] = eight[j];
    }
}
template <class Kind, class T>
__device__ __forceinline__ void store_eight(Kind kind, T* y, uint64_t i, uint64_t count, const Eight& e) {
    store_packed(kind, y, i, count, packed<T>(e));
}

// body(kind, i) for this thread's elements i..i + 8 of `count`; the last thread's are ragged where count is.
template <class Body> __device__ __forceinline__ void my_eight(uint64_t count, Body body) {
    const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= count) body(Whole(), i);
    else if (i < count) body(Ragged(), i);
}
