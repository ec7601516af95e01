// The squared norm of a gradient, and its scaling. One block sums, in f64 and in a fixed order: simple, repeatable, and
// short for adapters; a gradient of all weights wants its tiles summed where they are made.
#include "kernel.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

KERNEL(clip_add_squared_norm, SquaredNormParams, 1024) {
    const float* gradient = reinterpret_cast<const float*>(p.gradient);
    double square = 0.0;
    for (uint64_t i = threadIdx.x; i < p.count; i += blockDim.x) square += (double)gradient[i] * gradient[i];
    square = block_sum(square);
    if (threadIdx.x == 0) *reinterpret_cast<float*>(p.total) += (float)square;
}

KERNEL(clip_scale, ScaleParams, 256) {
    const uint64_t i = my_eight();
    float* at = reinterpret_cast<float*>(p.x);
    Eight x = load_eight(const_cast<const float*>(at), i, p.count);
#pragma unroll
    for (int j = 0; j < 8; j++) x.v[j] *= p.factor;
    store_eight(at, i, p.count, x);
}
