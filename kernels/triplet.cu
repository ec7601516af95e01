// Triplet losses. hardest: the workspace holds each line's hinge as a double (0: closed), then each line's hardest
// negative as a uint32. given: one hinge a row.
#include "kernel.cuh"
#include "tile/in_batch.cuh"

__device__ __forceinline__ const uint32_t* hardest_of(const InBatchParams& p) {
    return reinterpret_cast<const uint32_t*>(reinterpret_cast<const double*>(p.workspace) + p.sides * p.n);
}

// One warp a line, blockIdx.y the side.
SMALL_KERNEL(triplet_hardest, InBatchParams, 32) {
    const Hinge hinge = Hinge::of(p, Line(p, blockIdx.x, blockIdx.y));
    if (threadIdx.x != 0) return;
    const uint32_t index = blockIdx.y * p.n + blockIdx.x;
    reinterpret_cast<double*>(p.workspace)[index] = hinge.value;
    const_cast<uint32_t*>(hardest_of(p))[index] = hinge.negative;
}

// One block a row of the gradient; the first also takes the mean of the hinges.
SMALL_KERNEL(triplet_gradient, InBatchParams, 256) {
    const uint32_t row = blockIdx.x, *hardest = hardest_of(p);
    float* gradient = reinterpret_cast<float*>(p.dsimilarity) + (size_t)row * p.n;
    for (uint32_t j = threadIdx.x; j < p.n; j += blockDim.x) gradient[j] = triplet_gradient_at(p, row, j, hardest);
    const double* hinges = reinterpret_cast<const double*>(p.workspace);
    if (row == 0) mean_of_terms(hinges, p.sides * p.n, reinterpret_cast<float*>(p.loss));
}

// One block a triplet.
SMALL_KERNEL(triplet_given, TripletGivenParams, 256) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const float* a = reinterpret_cast<const float*>(p.anchor) + row;
    const float* b = reinterpret_cast<const float*>(p.positive) + row;
    const float* c = reinterpret_cast<const float*>(p.negative) + row;
    double near = 0.0, far = 0.0;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
        near += (double)a[i] * (double)b[i];
        far += (double)a[i] * (double)c[i];
    }
    near = block_sum(near);
    far = block_sum(far);
    const double hinge = (double)p.margin + far - near;
    const bool open = hinge > 0.0 || isnan(hinge);
    const float weight = open ? 1.0f / (float)p.n : 0.0f;
    for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
        reinterpret_cast<float*>(p.danchor)[row + i] = weight * (c[i] - b[i]);
        reinterpret_cast<float*>(p.dpositive)[row + i] = -weight * a[i];
        reinterpret_cast<float*>(p.dnegative)[row + i] = weight * a[i];
    }
    if (threadIdx.x == 0) reinterpret_cast<double*>(p.workspace)[blockIdx.x] = open ? hinge : 0.0;
}

SMALL_KERNEL(triplet_given_loss, TripletGivenParams, 256) {
    mean_of_terms(reinterpret_cast<const double*>(p.workspace), p.n, reinterpret_cast<float*>(p.loss));
}
