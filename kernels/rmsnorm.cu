// Root-mean-square normalisation, one block a token: two reads of the row, the second from L1 or L2.
#include "kernel.cuh"
#include "tile/reduce.cuh"

template <class T> __device__ __forceinline__ void rmsnorm_forward(const RmsnormForwardParams& p) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const T* x = reinterpret_cast<const T*>(p.x) + row;
    const float* weight = reinterpret_cast<const float*>(p.weight);
    T* y = reinterpret_cast<T*>(p.y) + row;

    float square = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
        const float v = to_float(x[i]);
        square += v * v;
    }
    const float inv_rms = 1.0f / sqrtf(block_sum(square) / (float)p.hidden + p.eps);
    if (threadIdx.x == 0) reinterpret_cast<float*>(p.inv_rms)[blockIdx.x] = inv_rms;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) y[i] = from_float<T>(to_float(x[i]) * inv_rms * weight[i]);
}

KERNEL(rmsnorm_forward_f32, RmsnormForwardParams, 1024) { rmsnorm_forward<float>(p); }
KERNEL(rmsnorm_forward_bf16, RmsnormForwardParams, 1024) { rmsnorm_forward<bf16>(p); }
