// InfoNCE over a similarity matrix. Exponentials and sums are double, as on the CPU: a small loss is the difference of
// two large logarithms. The workspace holds each line's normaliser, then each line's term.
#include "kernel.cuh"
#include "tile/in_batch.cuh"

__device__ __forceinline__ double logit(const InBatchParams& p, float similarity) {
    return (double)similarity / (double)p.temperature;
}

// One block a line; blockIdx.y is the side.
SMALL_KERNEL(infonce_normalisers, InBatchParams, 256) {
    const Line line(p, blockIdx.x, blockIdx.y);
    const double own = logit(p, line.value(line.pair));
    float largest = line.value(line.pair);
    for (uint32_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        if (line.negative(i)) largest = fmaxf(largest, line.value(i));
    }
    const double top = logit(p, block_max(largest));
    double sum = threadIdx.x == 0 ? exp(own - top) : 0.0;
    for (uint32_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        if (line.negative(i)) sum += exp(logit(p, line.value(i)) - top);
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const double normaliser = top + log(sum);
    double* workspace = reinterpret_cast<double*>(p.workspace);
    workspace[blockIdx.y * p.n + blockIdx.x] = normaliser;
    workspace[(p.sides + blockIdx.y) * p.n + blockIdx.x] = normaliser - own;
}

// One block a row of the gradient; the first also takes the mean of the terms.
SMALL_KERNEL(infonce_gradient, InBatchParams, 256) {
    const uint32_t row = blockIdx.x;
    const Line line(p, row, 0);
    const double* normaliser = reinterpret_cast<const double*>(p.workspace);
    const double weight = 1.0 / ((double)p.n * p.sides * (double)p.temperature);
    float* gradient = reinterpret_cast<float*>(p.dsimilarity) + (size_t)row * p.n;
    for (uint32_t j = threadIdx.x; j < p.n; j += blockDim.x) {
        const double own = logit(p, line.value(j));
        double d = exp(own - normaliser[row]);
        if (p.sides == 2) d += exp(own - normaliser[p.n + j]);
        if (j == row) d -= p.sides;
        gradient[j] = j == row || line.negative(j) ? (float)(weight * d) : 0.0f;
    }
    if (row == 0) mean_of_terms(normaliser + p.sides * p.n, p.sides * p.n, reinterpret_cast<float*>(p.loss));
}
