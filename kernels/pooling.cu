// The mean of the tokens that a pooling keeps, one block for 256 columns of a sequence.
#include "kernel.cuh"

struct Kept {
    uint32_t first, begin, end;  // a sequence is first..end, of which begin..end is kept
};

__device__ __forceinline__ Kept kept(const PoolingParams& p, uint32_t sequence) {
    const uint32_t* offsets = reinterpret_cast<const uint32_t*>(p.offsets);
    const uint32_t first = offsets[sequence], last = offsets[sequence + 1];
    uint32_t begin = first;
    if (p.pooling == KIUNGO_POOLING_MEAN_NO_SINK && last - first > 1) begin = first + 1;
    if (p.pooling == KIUNGO_POOLING_LAST) begin = last - 1;
    return {first, begin, last};
}

template <class T> __device__ __forceinline__ void pooling_forward(const PoolingParams& p) {
    const uint32_t column = blockIdx.y * 256 + threadIdx.x;
    if (column >= p.hidden) return;
    const Kept k = kept(p, blockIdx.x);
    const T* h = reinterpret_cast<const T*>(p.h) + column;
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t t = k.begin; t < k.end; t++) sum += to_float(h[(size_t)t * p.hidden]);
    reinterpret_cast<float*>(p.y)[(size_t)blockIdx.x * p.hidden + column] = sum / (float)(k.end - k.begin);
}

KERNEL(pooling_forward_f32, PoolingParams, 256) { pooling_forward<float>(p); }
KERNEL(pooling_forward_bf16, PoolingParams, 256) { pooling_forward<bf16>(p); }

template <class T> __device__ __forceinline__ void pooling_backward(const PoolingParams& p) {
    const uint32_t column = blockIdx.y * 256 + threadIdx.x;
    if (column >= p.hidden) return;
    const Kept k = kept(p, blockIdx.x);
    T* dh = reinterpret_cast<T*>(p.h) + column;
    const float dy = reinterpret_cast<const float*>(p.y)[(size_t)blockIdx.x * p.hidden + column];
    const float share = dy / (float)(k.end - k.begin);
    for (uint32_t t = k.first; t < k.end; t++) {
        dh[(size_t)t * p.hidden] = from_float<T>(t >= k.begin ? share : 0.0f);
    }
}

KERNEL(pooling_backward_f32, PoolingParams, 256) { pooling_backward<float>(p); }
KERNEL(pooling_backward_bf16, PoolingParams, 256) { pooling_backward<bf16>(p); }
