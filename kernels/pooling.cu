// The mean of the tokens that a pooling keeps. A thread has eight columns of a sequence and runs over its tokens, of which the
// next eight are always on their way; small blocks spread few long sequences over all multiprocessors.
#include "kernel.cuh"
#include "tile/vector.cuh"

struct Task {
    uint32_t sequence, column;
    uint32_t first, begin, end;  // a sequence is first..end, of which begin..end is kept
};

__device__ __forceinline__ Task task(const PoolingParams& p) {
    const uint32_t parts = (p.hidden + KIUNGO_POOLING_COLUMNS - 1) / KIUNGO_POOLING_COLUMNS;
    const uint32_t sequence = blockIdx.x / parts;
    const uint32_t column = blockIdx.x % parts * KIUNGO_POOLING_COLUMNS + threadIdx.x * 8;
    const uint32_t* offsets = reinterpret_cast<const uint32_t*>(p.offsets);
    const uint32_t first = offsets[sequence], last = offsets[sequence + 1];
    uint32_t begin = first;
    if (p.pooling == KIUNGO_POOLING_MEAN_NO_SINK && last - first > 1) begin = first + 1;
    if (p.pooling == KIUNGO_POOLING_LAST) begin = last - 1;
    return {sequence, column, first, begin, last};
}

template <class T> __device__ __forceinline__ void pooling_forward(const PoolingParams& p) {
    constexpr int WINDOW = 8;  // tokens whose loads are on their way together
    const Task k = task(p);
    const T* h = reinterpret_cast<const T*>(p.h);
    float* y = reinterpret_cast<float*>(p.y) + (size_t)k.sequence * p.hidden;
    const float count = (float)(k.end - k.begin);
    if (p.hidden % 8) {
        for (uint32_t c = k.column; c < k.column + 8 && c < p.hidden; c++) {
            float sum = 0.0f;
            for (uint32_t t = k.begin; t < k.end; t++) sum += to_float(h[(size_t)t * p.hidden + c]);
            y[c] = sum / count;
        }
    } else if (k.column < p.hidden) {
        Eight sum = {};
        Packed<T> window[WINDOW];
        const auto fetch = [&](uint32_t t, int i) {
            window[i] = {};  // adding zeros is quicker than a branch, behind which no load may begin
            if (t < k.end) window[i] = load_packed(h + (size_t)t * p.hidden + k.column);
        };
#pragma unroll
        for (int i = 0; i < WINDOW; i++) fetch(k.begin + i, i);
        for (uint32_t t = k.begin; t < k.end; t += WINDOW) {
#pragma unroll
            for (int i = 0; i < WINDOW; i++) {
                const Eight e = unpack(window[i]);
                fetch(t + i + WINDOW, i);
#pragma unroll
                for (int j = 0; j < 8; j++) sum.v[j] += e.v[j];
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) sum.v[j] /= count;
        store_eight(y + k.column, sum);
    }
}

SMALL_KERNEL(pooling_forward_f32, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_forward<float>(p); }
SMALL_KERNEL(pooling_forward_bf16, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_forward<bf16>(p); }

template <class T> __device__ __forceinline__ void pooling_backward(const PoolingParams& p) {
    const Task k = task(p);
    T* dh = reinterpret_cast<T*>(p.h);
    const float* dy = reinterpret_cast<const float*>(p.y) + (size_t)k.sequence * p.hidden;
    const float count = (float)(k.end - k.begin);
    if (p.hidden % 8) {
        for (uint32_t c = k.column; c < k.column + 8 && c < p.hidden; c++) {
            const T share = from_float<T>(dy[c] / count), zero = from_float<T>(0.0f);
            for (uint32_t t = k.first; t < k.end; t++) dh[(size_t)t * p.hidden + c] = t >= k.begin ? share : zero;
        }
    } else if (k.column < p.hidden) {
        Eight e = load_eight(dy + k.column);
#pragma unroll
        for (int j = 0; j < 8; j++) e.v[j] /= count;
        const Packed<T> share = packed<T>(e), zero = {};
        for (uint32_t t = k.first; t < k.end; t++) {
            store_packed(dh + (size_t)t * p.hidden + k.column, t >= k.begin ? share : zero);
        }
    }
}

SMALL_KERNEL(pooling_backward_f32, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_backward<float>(p); }
SMALL_KERNEL(pooling_backward_bf16, PoolingParams, KIUNGO_POOLING_COLUMNS / 8) { pooling_backward<bf16>(p); }
