// The cosines of a batch's sources with its targets, and the gradient of both: products that are too small to fill tiles with.
// What is read again and again stays in the caches; a block has few rows, so that there are enough blocks.
#include "kernel.cuh"
#include "tile/reduce.cuh"

constexpr uint32_t ROWS = KIUNGO_PAIRS_ROWS;

// A block has some sources, and each of its warps a target.
KERNEL(pairs_forward, PairsParams, 256) {
    const uint32_t row = blockIdx.x * ROWS, column = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (column >= p.n) return;
    const float* unit = reinterpret_cast<const float*>(p.unit);
    const float* target = unit + (size_t)(p.n + column) * p.hidden;
    float sums[ROWS] = {};
#pragma unroll 4
    for (uint32_t c = threadIdx.x % 32; c < p.hidden; c += 32) {
        const float t = target[c];
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) sums[r] += unit[(size_t)min(row + r, p.n - 1) * p.hidden + c] * t;
    }
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        const float sum = warp_sum(sums[r]);
        if (threadIdx.x % 32 == 0 && row + r < p.n) {
            reinterpret_cast<float*>(p.similarity)[(size_t)(row + r) * p.n + column] = sum;
        }
    }
}

// A block has some rows of one side, and each of its threads a column of them.
KERNEL(pairs_backward, PairsParams, 256) {
    const uint32_t blocks = (p.n + ROWS - 1) / ROWS, column = blockIdx.y * blockDim.x + threadIdx.x;
    const bool targets = blockIdx.x >= blocks;
    const uint32_t row = (blockIdx.x - (targets ? blocks : 0)) * ROWS;
    if (column >= p.hidden) return;
    // Element (r, k) of the gradient's matrix, from this side's point of view.
    const float* d = reinterpret_cast<const float*>(p.similarity);
    const size_t down = targets ? 1 : p.n, across = targets ? p.n : 1;
    const float* other = reinterpret_cast<const float*>(p.unit) + (targets ? 0 : (size_t)p.n * p.hidden) + column;
    float sums[ROWS] = {};
#pragma unroll 4
    for (uint32_t k = 0; k < p.n; k++) {
        const float x = other[(size_t)k * p.hidden];
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) sums[r] += d[min(row + r, p.n - 1) * down + k * across] * x;
    }
    float* dunit = reinterpret_cast<float*>(p.dunit) + (targets ? (size_t)p.n * p.hidden : 0) + column;
#pragma unroll
    for (uint32_t r = 0; r < ROWS; r++) {
        if (row + r < p.n) dunit[(size_t)(row + r) * p.hidden] = sums[r];
    }
}
