// InfoNCE over a similarity matrix. The workspace holds each line's normaliser, then each line's term.
#include "kernel.cuh"
#include "tile/in_batch.cuh"

// One block a line; blockIdx.y is the side.
SMALL_KERNEL(infonce_normalisers, InBatchParams, 256) {
    const Line line(p, blockIdx.x, blockIdx.y);
    const double normaliser = normaliser_of<ByBlock>(p, line);
    if (threadIdx.x != 0) return;
    double* workspace = reinterpret_cast<double*>(p.workspace);
    workspace[blockIdx.y * p.n + blockIdx.x] = normaliser;
    workspace[(p.sides + blockIdx.y) * p.n + blockIdx.x] = normaliser - logit(p, line.value(line.pair));
}

// One block a row of the gradient; the first also takes the mean of the terms.
SMALL_KERNEL(infonce_gradient, InBatchParams, 256) {
    const uint32_t row = blockIdx.x;
    const double* normaliser = reinterpret_cast<const double*>(p.workspace);
    float* gradient = reinterpret_cast<float*>(p.dsimilarity) + (size_t)row * p.n;
    for (uint32_t j = threadIdx.x; j < p.n; j += blockDim.x) gradient[j] = infonce_gradient_at(p, row, j, normaliser);
    if (row == 0) mean_of_terms(normaliser + p.sides * p.n, p.sides * p.n, reinterpret_cast<float*>(p.loss));
}
