// Sums and maxima over a warp and over a block. The order is fixed by the thread layout alone, so results repeat to
// the bit.
#pragma once
#include "kernel.cuh"

struct Add {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
    static constexpr float IDENTITY = 0.0f;
};
struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
    static constexpr float IDENTITY = -INFINITY;
};

template <class Op, class T> __device__ __forceinline__ T warp_reduce(T v) {
    for (int offset = 16; offset; offset >>= 1) v = Op()(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}

// Every thread of the block gets the result. blockDim.x must be a multiple of 32, at most 1024.
template <class Op, class T> __device__ __forceinline__ T block_reduce(T v) {
    __shared__ T partial[32];
    v = warp_reduce<Op>(v);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = warp_reduce<Op>(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : (T)Op::IDENTITY);
    __syncthreads();  // partial may be written again by the next reduction
    return v;
}

template <class T> __device__ __forceinline__ T warp_sum(T v) { return warp_reduce<Add>(v); }
template <class T> __device__ __forceinline__ T block_sum(T v) { return block_reduce<Add>(v); }
__device__ __forceinline__ float warp_max(float v) { return warp_reduce<Max>(v); }
__device__ __forceinline__ float block_max(float v) { return block_reduce<Max>(v); }
