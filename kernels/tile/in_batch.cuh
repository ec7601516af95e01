// The lines of a similarity matrix that the in-batch losses read: rows, and columns where both directions count.
#pragma once
#include "kernel.cuh"
#include "tile/reduce.cuh"

struct Line {
    const float* similarity;
    const uint8_t* excluded;  // null: nothing is
    uint32_t n, pair;
    bool column;

    // Line `pair` of side 0 (rows) or 1 (columns).
    __device__ __forceinline__ Line(const InBatchParams& p, uint32_t pair, uint32_t side)
        : similarity(reinterpret_cast<const float*>(p.similarity)),
          excluded(reinterpret_cast<const uint8_t*>(p.excluded)),
          n(p.n),
          pair(pair),
          column(side == 1) {}

    __device__ __forceinline__ size_t at(uint32_t i) const { return column ? (size_t)i * n + pair : (size_t)pair * n + i; }
    __device__ __forceinline__ float value(uint32_t i) const { return similarity[at(i)]; }
    __device__ __forceinline__ bool negative(uint32_t i) const { return i != pair && !(excluded && excluded[at(i)]); }
};

// loss = mean of the lines' terms, by one block.
__device__ __forceinline__ void mean_of_terms(const double* terms, uint32_t count, float* loss) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) sum += terms[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *loss = (float)(sum / count);
}
