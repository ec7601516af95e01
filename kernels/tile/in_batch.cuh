// The losses over a similarity matrix: what a line of it (a row, or a column where both directions count) adds to the loss, and
// what an entry gets of the gradient.
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

// Who looks at a line together.
struct ByBlock {
    static __device__ __forceinline__ uint32_t first() { return threadIdx.x; }
    static __device__ __forceinline__ uint32_t step() { return blockDim.x; }
    static __device__ __forceinline__ float max(float v) { return block_max(v); }
    static __device__ __forceinline__ double sum(double v) { return block_sum(v); }
};
struct ByWarp {
    static __device__ __forceinline__ uint32_t first() { return threadIdx.x % 32; }
    static __device__ __forceinline__ uint32_t step() { return 32; }
    static __device__ __forceinline__ float max(float v) { return warp_max(v); }
    static __device__ __forceinline__ double sum(double v) { return warp_sum(v); }
};

// InfoNCE: exponentials and sums are double, as on the CPU: a small loss is the difference of two large logarithms.
__device__ __forceinline__ double logit(const InBatchParams& p, float similarity) {
    return (double)similarity / (double)p.temperature;
}

// The logarithm of a line's sum of exponentials; its term is that less its own logit.
template <class By> __device__ __forceinline__ double normaliser_of(const InBatchParams& p, const Line& line) {
    const double own = logit(p, line.value(line.pair));
    float largest = line.value(line.pair);
    for (uint32_t i = By::first(); i < p.n; i += By::step()) {
        if (line.negative(i)) largest = fmaxf(largest, line.value(i));
    }
    const double top = logit(p, By::max(largest));
    double sum = By::first() == 0 ? exp(own - top) : 0.0;
    for (uint32_t i = By::first(); i < p.n; i += By::step()) {
        if (line.negative(i)) sum += exp(logit(p, line.value(i)) - top);
    }
    return top + log(By::sum(sum));
}

// Of entry (row, j), from the normalisers of rows, then of columns.
__device__ __forceinline__ float infonce_gradient_at(const InBatchParams& p, uint32_t row, uint32_t j, const double* normaliser) {
    const Line line(p, row, 0);
    const double weight = 1.0 / ((double)p.n * p.sides * (double)p.temperature);
    const double own = logit(p, line.value(j));
    double d = exp(own - normaliser[row]);
    if (p.sides == 2) d += exp(own - normaliser[p.n + j]);
    if (j == row) d -= p.sides;
    return j == row || line.negative(j) ? (float)(weight * d) : 0.0f;
}

// Triplets. A NaN counts as largest, so that it reaches the loss; of equals the first.
__device__ __forceinline__ bool harder(float value, uint32_t index, float than, uint32_t than_index) {
    if (index == UINT32_MAX || than_index == UINT32_MAX) return than_index == UINT32_MAX && index != UINT32_MAX;
    if (isnan(value) != isnan(than)) return isnan(value);
    if (value > than) return true;
    return !(value < than) && index < than_index;
}

// A line's hinge against its hardest negative, and which that is; 0 and UINT32_MAX where the hinge is closed.
struct Hinge {
    double value;
    uint32_t negative;

    // By a warp.
    static __device__ __forceinline__ Hinge of(const InBatchParams& p, const Line& line) {
        float best = 0.0f;
        uint32_t at = UINT32_MAX;
        for (uint32_t i = threadIdx.x % 32; i < p.n; i += 32) {
            if (line.negative(i) && harder(line.value(i), i, best, at)) best = line.value(i), at = i;
        }
        for (int offset = 16; offset; offset >>= 1) {
            const float other = __shfl_xor_sync(0xffffffffu, best, offset);
            const uint32_t other_at = __shfl_xor_sync(0xffffffffu, at, offset);
            if (harder(other, other_at, best, at)) best = other, at = other_at;
        }
        const double hinge = at == UINT32_MAX ? 0.0 : (double)p.margin + (double)best - (double)line.value(line.pair);
        const bool open = hinge > 0.0 || isnan(hinge);
        return {open ? hinge : 0.0, open ? at : UINT32_MAX};
    }
};

// Of entry (row, j), from the hardest negatives of rows, then of columns.
__device__ __forceinline__ float triplet_gradient_at(const InBatchParams& p, uint32_t row, uint32_t j, const uint32_t* hardest) {
    const float weight = 1.0f / (float)(p.n * p.sides);
    float d = 0.0f;
    for (uint32_t side = 0; side < p.sides; side++) {
        const uint32_t line = side == 0 ? row : j, place = side == 0 ? j : row;
        const uint32_t negative = hardest[side * p.n + line];
        if (negative == place) d += weight;
        if (row == j && negative != UINT32_MAX) d -= weight;
    }
    return d;
}

// loss = mean of the lines' terms, by one block.
__device__ __forceinline__ void mean_of_terms(const double* terms, uint32_t count, float* loss) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) sum += terms[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *loss = (float)(sum / count);
}
