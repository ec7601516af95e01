// The mean of the tokens that a pooling keeps. A thread has eight columns of a sequence and runs over its tokens, of which the
// next eight are always on their way; small blocks spread few long sequences over all multiprocessors.
#include "kernel.cuh"
#include "tile/pooled.cuh"

struct Task {
    uint32_t sequence, column;
    Kept kept;
};

__device__ __forceinline__ Task task(const PoolingParams& p) {
    const uint32_t parts = (p.hidden + KIUNGO_POOLING_COLUMNS - 1) / KIUNGO_POOLING_COLUMNS;
    const uint32_t sequence = blockIdx.x / parts;
    const uint32_t column = blockIdx.x % parts * KIUNGO_POOLING_COLUMNS + threadIdx.x * 8;
    return {sequence, column, Kept(reinterpret_cast<const uint32_t*>(p.offsets), sequence, p.pooling)};
}

template <class T> __device__ __forceinline__ void pooling_forward(const PoolingParams& p) {
    const Task k = task(p);
    const T* h = reinterpret_cast<const T*>(p.h);
    float* y = reinterpret_cast<float*>(p.y) + (size_t)k.sequence * p.hidden;
    if (p.hidden % 8) {
        for (uint32_t c = k.column; c < k.column + 8 && c < p.hidden; c++) {
            float sum = 0.0f;
            for (uint32_t t = k.kept.begin; t < k.kept.end; t++) sum += to_float(h[(size_t)t * p.hidden + c]);
            y[c] = sum / k.kept.count();
        }
    } else if (k.column < p.hidden) {
        store_eight(y + k.column, mean_of(h, p.hidden, k.column, k.kept));
    }
}

SMALL_KERNEL(pooling_forward_f32, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_forward<float>(p); }
SMALL_KERNEL(pooling_forward_bf16, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_forward<bf16>(p); }

template <class T> __device__ __forceinline__ void pooling_backward(const PoolingParams& p) {
    const Task k = task(p);
    T* dh = reinterpret_cast<T*>(p.h);
    const float* dy = reinterpret_cast<const float*>(p.y) + (size_t)k.sequence * p.hidden;
    if (p.hidden % 8) {
        for (uint32_t c = k.column; c < k.column + 8 && c < p.hidden; c++) {
            const T share = from_float<T>(dy[c] / k.kept.count()), zero = from_float<T>(0.0f);
            for (uint32_t t = k.kept.first; t < k.kept.end; t++) dh[(size_t)t * p.hidden + c] = t >= k.kept.begin ? share : zero;
        }
    } else if (k.column < p.hidden) {
        share_among(dh, p.hidden, k.column, k.kept, load_eight(dy + k.column));
    }
}

SMALL_KERNEL(pooling_backward_f32, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_backward<float>(p); }
SMALL_KERNEL(pooling_backward_bf16, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_backward<bf16>(p); }
