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

// dx += inv_rms * (g - n * mean(g * n)), with n = x * inv_rms and g = dy * weight.
template <class T> __device__ __forceinline__ void rmsnorm_backward(const RmsnormBackwardParams& p) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const T* dy = reinterpret_cast<const T*>(p.dy) + row;
    const T* x = reinterpret_cast<const T*>(p.x) + row;
    const float* weight = reinterpret_cast<const float*>(p.weight);
    const float inv_rms = reinterpret_cast<const float*>(p.inv_rms)[blockIdx.x];
    T* dx = reinterpret_cast<T*>(p.dx) + row;

    float dot = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
        dot += to_float(dy[i]) * weight[i] * (to_float(x[i]) * inv_rms);
    }
    const float mean = block_sum(dot) / (float)p.hidden;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
        const float g = to_float(dy[i]) * weight[i], n = to_float(x[i]) * inv_rms;
        dx[i] = from_float<T>(to_float(dx[i]) + inv_rms * (g - n * mean));
    }
}

KERNEL(rmsnorm_backward_f32, RmsnormBackwardParams, 1024) { rmsnorm_backward<float>(p); }
KERNEL(rmsnorm_backward_bf16, RmsnormBackwardParams, 1024) { rmsnorm_backward<bf16>(p); }

// dweight += sum over tokens of dy * x * inv_rms. A block has 32 columns; each of its warps sums every warps-th token,
// and the warps' sums are added in their order, so no workspace and no atomics are needed.
template <class T> __device__ __forceinline__ void rmsnorm_dweight(const RmsnormBackwardParams& p) {
    __shared__ float partial[32][32];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const uint32_t column = blockIdx.x * 32 + lane;
    const T* dy = reinterpret_cast<const T*>(p.dy) + column;
    const T* x = reinterpret_cast<const T*>(p.x) + column;
    const float* inv_rms = reinterpret_cast<const float*>(p.inv_rms);

    float sum = 0.0f;
    if (column < p.hidden) {
#pragma unroll 4
        for (uint32_t t = warp; t < p.tokens; t += warps) {
            sum += to_float(dy[(size_t)t * p.hidden]) * to_float(x[(size_t)t * p.hidden]) * inv_rms[t];
        }
    }
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= p.hidden) return;
    for (uint32_t w = 1; w < warps; w++) sum += partial[w][lane];
    reinterpret_cast<float*>(p.dweight)[column] += sum;
}

KERNEL(rmsnorm_dweight_f32, RmsnormBackwardParams, 1024) { rmsnorm_dweight<float>(p); }
KERNEL(rmsnorm_dweight_bf16, RmsnormBackwardParams, 1024) { rmsnorm_dweight<bf16>(p); }
