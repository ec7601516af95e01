// The cosines of a batch's sources with its targets, and the gradient of both: products that are too small to fill tiles with.
// What is read again and again stays in the caches; a block has few rows, so that there are enough blocks.
#include "kernel.cuh"
#include "tile/reduce.cuh"

constexpr uint32_t ROWS = KIUNGO_PAIRS_ROWS, THREADS = 256;

// A block has some sources and as many targets; its threads share the sums, so that few pairs keep a multiprocessor busy too.
SMALL_KERNEL(pairs_forward, PairsParams, THREADS) {
    const uint32_t row = blockIdx.x * ROWS, column = blockIdx.y * ROWS;
    const float* unit = reinterpret_cast<const float*>(p.unit);
    const auto of = [&](uint32_t i) { return unit + (size_t)i * p.hidden; };
    float sums[ROWS * ROWS] = {};
#pragma unroll 4
    for (uint32_t c = threadIdx.x; c < p.hidden; c += THREADS) {
        float sources[ROWS];
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) sources[r] = of(min(row + r, p.n - 1))[c];
#pragma unroll
        for (uint32_t t = 0; t < ROWS; t++) {
            const float target = of(p.n + min(column + t, p.n - 1))[c];
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++) sums[r * ROWS + t] += sources[r] * target;
        }
    }
    __shared__ float parts[THREADS / 32][ROWS * ROWS];
#pragma unroll
    for (uint32_t i = 0; i < ROWS * ROWS; i++) {
        const float sum = warp_sum(sums[i]);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][i] = sum;
    }
    __syncthreads();
    const uint32_t r = row + threadIdx.x / ROWS, t = column + threadIdx.x % ROWS;
    if (threadIdx.x >= ROWS * ROWS || r >= p.n || t >= p.n) return;
    float sum = 0.0f;
    for (uint32_t warp = 0; warp < THREADS / 32; warp++) sum += parts[warp][threadIdx.x];
    reinterpret_cast<float*>(p.similarity)[(size_t)r * p.n + t] = sum;
}

// A block has some rows of one side, and each of its threads a column of them.
SMALL_KERNEL(pairs_backward, PairsParams, THREADS) {
    const uint32_t blocks = (p.n + ROWS - 1) / ROWS, column = blockIdx.y * blockDim.x + threadIdx.x;
    const bool targets = blockIdx.x >= blocks;
    const uint32_t row = (blockIdx.x - (targets ? blocks : 0)) * ROWS;
    if (column >= p.hidden) return;
    // Element (r, k) of the gradient's matrix, from this side's point of view.
    const float* d = reinterpret_cast<const float*>(p.similarity);
    const size_t down = targets ? 1 : p.n, across = targets ? p.n : 1;
    const float* other = reinterpret_cast<const float*>(p.unit) + (targets ? 0 : (size_t)p.n * p.hidden) + column;
    float sums[ROWS] = {};
#pragma unroll 8
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
