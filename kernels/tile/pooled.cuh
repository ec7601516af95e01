// The tokens whose mean is a sequence's vector, and that mean.
#pragma once
#include "kernel.cuh"
#include "tile/vector.cuh"

struct Kept {
    uint32_t first, begin, end;  // a sequence is first..end, of which begin..end is kept

    __device__ __forceinline__ Kept(const uint32_t* offsets, uint32_t sequence, uint32_t pooling)
        : first(offsets[sequence]), begin(first), end(offsets[sequence + 1]) {
        if (pooling == KIUNGO_POOLING_MEAN_NO_SINK && end - first > 1) begin = first + 1;
        if (pooling == KIUNGO_POOLING_LAST) begin = end - 1;
    }
    __device__ __forceinline__ float count() const { return (float)(end - begin); }
};

// Of eight neighbouring columns of h. The next eight tokens are always on their way.
template <class T> __device__ __forceinline__ Eight mean_of(const T* h, uint32_t hidden, uint32_t column, const Kept& kept) {
    constexpr int WINDOW = 8;
    Eight sum = {};
    Packed<T> window[WINDOW];
    const auto fetch = [&](uint32_t t, int i) {
        window[i] = {};  // adding zeros is quicker than a branch, behind which no load may begin
        if (t < kept.end) window[i] = load_packed(h + (size_t)t * hidden + column);
    };
#pragma unroll
    for (int i = 0; i < WINDOW; i++) fetch(kept.begin + i, i);
    for (uint32_t t = kept.begin; t < kept.end; t += WINDOW) {
#pragma unroll
        for (int i = 0; i < WINDOW; i++) {
            const Eight e = unpack(window[i]);
            fetch(t + i + WINDOW, i);
#pragma unroll
            for (int j = 0; j < 8; j++) sum.v[j] += e.v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sum.v[j] /= kept.count();
    return sum;
}

// The same columns of the gradient of a sequence's tokens, from that of its mean.
template <class T>
__device__ __forceinline__ void share_among(T* dh, uint32_t hidden, uint32_t column, const Kept& kept, Eight gradient) {
#pragma unroll
    for (int j = 0; j < 8; j++) gradient.v[j] /= kept.count();
    const Packed<T> share = packed<T>(gradient), zero = {};
    for (uint32_t t = kept.first; t < kept.begin; t++) store_packed(dh + (size_t)t * hidden + column, zero);
    for (uint32_t t = kept.begin; t < kept.end; t++) store_packed(dh + (size_t)t * hidden + column, share);
}
