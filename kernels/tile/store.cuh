// Sums to a row-major matrix, overwriting it or added to it; rounded once.
#pragma once
#include "kernel.cuh"

template <class C> __device__ __forceinline__ void store_one(C* c, float value, bool accumulate) {
    *c = from_float<C>(accumulate ? value + to_float(*c) : value);
}

// Two neighbours in one access, aligned to their size.
__device__ __forceinline__ void store_two(float* c, float x, float y, bool accumulate) {
    float2* at = reinterpret_cast<float2*>(c);
    const float2 old = accumulate ? *at : make_float2(0.0f, 0.0f);
    *at = make_float2(x + old.x, y + old.y);
}
__device__ __forceinline__ void store_two(bf16* c, float x, float y, bool accumulate) {
    __nv_bfloat162* at = reinterpret_cast<__nv_bfloat162*>(c);
    if (accumulate) {
        x += __bfloat162float(at->x);
        y += __bfloat162float(at->y);
    }
    *at = __floats2bfloat162_rn(x, y);
}

// A row of a matrix of n columns, from its first element.
template <class C> struct Row {
    C* first;
    uint32_t n;
    bool accumulate;

    // Columns `column`, which is even, and the next; those beyond the row are left out.
    __device__ __forceinline__ void store(uint32_t column, float x, float y) const {
        if (n % 2 == 0 && column < n) {
            store_two(first + column, x, y, accumulate);
        } else {
            if (column < n) store_one(first + column, x, accumulate);
            if (column + 1 < n) store_one(first + column + 1, y, accumulate);
        }
    }
};
