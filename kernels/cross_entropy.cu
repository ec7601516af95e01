// The language-model loss over rows of logits, and their gradients, in place where they are float. Sums are double and have a fixed
// order, as on the CPU: the loss is a difference of large numbers.
#include "kernel.cuh"
#include "tile/reduce.cuh"

__device__ __forceinline__ const uint32_t* labels(const CrossEntropyParams& p) {
    return reinterpret_cast<const uint32_t*>(p.labels);
}

// Tokens that are counted, by one block.
KERNEL(cross_entropy_count, CrossEntropyParams, 1024) {
    double count = 0.0;
    for (uint32_t t = threadIdx.x; t < p.tokens; t += blockDim.x) {
        if (labels(p)[t] != KIUNGO_IGNORE_LABEL) count += 1.0;
    }
    count = block_sum(count);
    if (threadIdx.x == 0) *reinterpret_cast<double*>(p.counted) = count > 1.0 ? count : 1.0;
}

// dz = (softmax(z) - onehot(label)) / counted; one block a token. A label beyond the vocabulary gives NaN.
template <class T> __device__ __forceinline__ void cross_entropy_rows(const CrossEntropyParams& p) {
    const uint32_t token = p.first + blockIdx.x, label = labels(p)[token];
    const float* z = reinterpret_cast<const float*>(p.logits) + (size_t)blockIdx.x * p.vocab;
    T* dz = reinterpret_cast<T*>(p.dlogits) + (size_t)blockIdx.x * p.vocab;
    double* term = reinterpret_cast<double*>(p.terms) + token;
    if (label >= p.vocab) {
        const float value = label == KIUNGO_IGNORE_LABEL ? 0.0f : NAN;
        for (uint32_t i = threadIdx.x; i < p.vocab; i += blockDim.x) dz[i] = from_float<T>(value);
        if (threadIdx.x == 0) *term = value;
        return;
    }
    float largest = -INFINITY;
    for (uint32_t i = threadIdx.x; i < p.vocab; i += blockDim.x) largest = fmaxf(largest, z[i]);
    const float top = block_max(largest), own = z[label] - top;
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < p.vocab; i += blockDim.x) sum += (double)expf(z[i] - top);
    sum = block_sum(sum);
    const double counted = *reinterpret_cast<const double*>(p.counted);
    const float scale = (float)(1.0 / (sum * counted)), one = (float)(1.0 / counted);
    for (uint32_t i = threadIdx.x; i < p.vocab; i += blockDim.x) {
        dz[i] = from_float<T>(expf(z[i] - top) * scale - (i == label ? one : 0.0f));
    }
    if (threadIdx.x == 0) *term = log(sum) - (double)own;
}

KERNEL(cross_entropy_rows_f32, CrossEntropyParams, 256) { cross_entropy_rows<float>(p); }
KERNEL(cross_entropy_rows_bf16, CrossEntropyParams, 256) { cross_entropy_rows<bf16>(p); }

// loss = sum of the terms / counted, by one block.
KERNEL(cross_entropy_loss, CrossEntropyParams, 1024) {
    double sum = 0.0;
    for (uint32_t t = threadIdx.x; t < p.tokens; t += blockDim.x) sum += reinterpret_cast<const double*>(p.terms)[t];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *reinterpret_cast<float*>(p.loss) = (float)(sum / *reinterpret_cast<const double*>(p.counted));
}
