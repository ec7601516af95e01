// Rows scaled to length 1 and the gradient of that, one block a row. Dot products are summed in double, as on the CPU.
//
// A row of up to 16 columns a thread is held in registers between its sum and its result. Longer rows, and rows that are not
// made of fours, are read again, from L2.
#include "kernel.cuh"
#include "ptx/memory.cuh"
#include "tile/reduce.cuh"

constexpr int HELD = 4;  // fours a thread

__device__ __forceinline__ uint32_t held_column(int i) { return (threadIdx.x + i * blockDim.x) * 4; }
__device__ __forceinline__ bool can_hold(uint32_t columns) { return columns % 4 == 0 && columns <= blockDim.x * HELD * 4; }

// This thread's part of a row.
struct Part {
    float v[HELD][4];

    static __device__ __forceinline__ Part load(const float* row, uint32_t columns) {
        Part part;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            uint4 four = {};
            if (held_column(i) < columns) four = load_16(row + held_column(i));
            part.v[i][0] = __uint_as_float(four.x), part.v[i][1] = __uint_as_float(four.y);
            part.v[i][2] = __uint_as_float(four.z), part.v[i][3] = __uint_as_float(four.w);
        }
        return part;
    }
    __device__ __forceinline__ void store(float* row, uint32_t columns) const {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const float* f = v[i];
            const uint4 four = make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]), __float_as_uint(f[3]));
            if (held_column(i) < columns) store_16(row + held_column(i), four);
        }
    }
    // Of the whole rows, by all threads of the block.
    __device__ __forceinline__ double dot(const Part& other) const {
        double sum = 0.0;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sum += (double)v[i][j] * (double)other.v[i][j];
        }
        return block_sum(sum);
    }
};

__device__ __forceinline__ double dot(const float* a, const float* b, uint32_t n) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) sum += (double)a[i] * (double)b[i];
    return block_sum(sum);
}

SMALL_KERNEL(cosine_normalize, CosineParams, 1024) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const float* x = reinterpret_cast<const float*>(p.x) + row;
    float* y = reinterpret_cast<float*>(p.y) + row;
    float norm;
    if (can_hold(p.hidden)) {
        Part part = Part::load(x, p.hidden);
        norm = (float)sqrt(part.dot(part));
        const float length = fmaxf(norm, p.min_norm);
#pragma unroll
        for (int i = 0; i < HELD * 4; i++) part.v[i / 4][i % 4] /= length;
        part.store(y, p.hidden);
    } else {
        norm = (float)sqrt(dot(x, x, p.hidden));
        const float length = fmaxf(norm, p.min_norm);
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) y[i] = x[i] / length;
    }
    if (threadIdx.x == 0) reinterpret_cast<float*>(p.norm)[blockIdx.x] = norm;
}

SMALL_KERNEL(cosine_normalize_backward, CosineParams, 1024) {
    const size_t row = (size_t)blockIdx.x * p.hidden;
    const float* dy = reinterpret_cast<const float*>(p.x) + row;
    const float* y = reinterpret_cast<const float*>(p.y) + row;
    float* dx = reinterpret_cast<float*>(p.dx) + row;
    const float norm = reinterpret_cast<const float*>(p.norm)[blockIdx.x], length = fmaxf(norm, p.min_norm);
    const auto along = [&](double product) { return norm < p.min_norm ? 0.0f : (float)product; };  // of dy, along y
    if (can_hold(p.hidden)) {
        Part part = Part::load(dy, p.hidden);
        const Part unit = Part::load(y, p.hidden);
        const float product = along(unit.dot(part));
#pragma unroll
        for (int i = 0; i < HELD * 4; i++) {
            float& g = part.v[i / 4][i % 4];
            g = (g - unit.v[i / 4][i % 4] * product) / length;
        }
        part.store(dx, p.hidden);
    } else {
        const float product = along(dot(y, dy, p.hidden));
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) dx[i] = (dy[i] - y[i] * product) / length;
    }
}
