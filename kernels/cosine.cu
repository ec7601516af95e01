// Rows scaled to length 1 and the gradient of that, one block a row. Dot products are summed in double, as on the CPU.
#include "kernel.cuh"
#include "tile/reduce.cuh"

__device__ __forceinline__ double dot(const float* a, const float* b, uint32_t n) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) sum += (double)a[i] * (double)b[i];
    return block_sum(sum);
}

KERNEL(cosine_normalize, CosineParams, 256) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const float* x = reinterpret_cast<const float*>(p.x) + row;
    float* y = reinterpret_cast<float*>(p.y) + row;
    const float norm = (float)sqrt(dot(x, x, p.hidden)), length = fmaxf(norm, p.min_norm);
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) y[i] = x[i] / length;
    if (threadIdx.x == 0) reinterpret_cast<float*>(p.norm)[blockIdx.x] = norm;
}

KERNEL(cosine_normalize_backward, CosineParams, 256) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const float* dy = reinterpret_cast<const float*>(p.x) + row;
    const float* y = reinterpret_cast<const float*>(p.y) + row;
    float* dx = reinterpret_cast<float*>(p.dx) + row;
    const float norm = reinterpret_cast<const float*>(p.norm)[blockIdx.x], length = fmaxf(norm, p.min_norm);
    const float product = (float)dot(y, dy, p.hidden), along = norm < p.min_norm ? 0.0f : product;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) dx[i] = (dy[i] - y[i] * along) / length;
}
