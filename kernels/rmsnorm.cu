// Root-mean-square normalisation. A block takes rows blockIdx.x, blockIdx.x + gridDim.x, ...
//
// Bound by memory: every byte should cross it once, and it should never wait. So a row of up to 16 columns a thread is
// held in registers, and the next one is asked for before this one is reduced, where threads wait for each other.
// Longer rows, and rows that are not made of eights, are read again, from L2.
#include "kernel.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

constexpr int HELD = 2;  // eights a thread

__device__ __forceinline__ uint32_t held_column(int i) { return (threadIdx.x + i * blockDim.x) * 8; }
__device__ __forceinline__ bool can_hold(uint32_t columns) { return columns % 8 == 0 && columns <= blockDim.x * HELD * 8; }

// This thread's part of a row.
template <class T> struct Part {
    Packed<T> eights[HELD];
};

template <class T> __device__ __forceinline__ Part<T> load_part(const T* row, uint32_t columns) {
    Part<T> part;
#pragma unroll
    for (int i = 0; i < HELD; i++) part.eights[i] = load_packed(Whole(), row, held_column(i), columns);
    return part;
}

// x += residual first, if RESIDUAL. Both loops below round the sum, as the residual stream holds it, before the norm.
template <class T, bool RESIDUAL> __device__ __forceinline__ void forward_held(const RmsnormForwardParams& p) {
    T* xs = reinterpret_cast<T*>(p.x);
    const T* residual = reinterpret_cast<const T*>(p.residual);
    const Part<float> weight = load_part(reinterpret_cast<const float*>(p.weight), p.hidden);

    Part<T> x{}, added{};
    const auto fetch = [&](uint32_t row) {
        if (row >= p.tokens) return;
        x = load_part(const_cast<const T*>(xs) + (size_t)row * p.hidden, p.hidden);
        if (RESIDUAL) added = load_part(residual + (size_t)row * p.hidden, p.hidden);
    };
    fetch(blockIdx.x);
    for (uint32_t row = blockIdx.x; row < p.tokens; row += gridDim.x) {
        Part<T> now = x;
        if (RESIDUAL) {
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                Eight sum = unpack(x.eights[i]);
                const Eight add = unpack(added.eights[i]);
#pragma unroll
                for (int j = 0; j < 8; j++) sum.v[j] += add.v[j];
                now.eights[i] = packed<T>(sum);
                store_eight(Whole(), xs + (size_t)row * p.hidden, held_column(i), p.hidden, sum);
            }
        }
        fetch(row + gridDim.x);
        float square = 0.0f;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const Eight e = unpack(now.eights[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) square += e.v[j] * e.v[j];
        }
        const float inv_rms = 1.0f / sqrtf(block_sum(square) / (float)p.hidden + p.eps);
        if (threadIdx.x == 0) reinterpret_cast<float*>(p.inv_rms)[row] = inv_rms;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            Eight e = unpack(now.eights[i]);
            const Eight w = unpack(weight.eights[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) e.v[j] = e.v[j] * inv_rms * w.v[j];
            store_eight(Whole(), reinterpret_cast<T*>(p.y) + (size_t)row * p.hidden, held_column(i), p.hidden, e);
        }
    }
}

template <class T, bool RESIDUAL> __device__ __forceinline__ void forward_again(const RmsnormForwardParams& p) {
    const float* weight = reinterpret_cast<const float*>(p.weight);
    for (uint32_t row = blockIdx.x; row < p.tokens; row += gridDim.x) {
        const size_t at = (size_t)row * p.hidden;
        T *x = reinterpret_cast<T*>(p.x) + at, *y = reinterpret_cast<T*>(p.y) + at;
        float square = 0.0f;
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
            if (RESIDUAL) x[i] = from_float<T>(to_float(x[i]) + to_float(reinterpret_cast<const T*>(p.residual)[at + i]));
            square += to_float(x[i]) * to_float(x[i]);
        }
        const float inv_rms = 1.0f / sqrtf(block_sum(square) / (float)p.hidden + p.eps);
        if (threadIdx.x == 0) reinterpret_cast<float*>(p.inv_rms)[row] = inv_rms;
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) y[i] = from_float<T>(to_float(x[i]) * inv_rms * weight[i]);
    }
}

template <class T, bool RESIDUAL> __device__ __forceinline__ void rmsnorm_forward(const RmsnormForwardParams& p) {
    if (can_hold(p.hidden)) forward_held<T, RESIDUAL>(p);
    else forward_again<T, RESIDUAL>(p);
}

SMALL_KERNEL(rmsnorm_forward_f32, RmsnormForwardParams, 512) { rmsnorm_forward<float, false>(p); }
SMALL_KERNEL(rmsnorm_forward_bf16, RmsnormForwardParams, 512, 2) { rmsnorm_forward<bf16, false>(p); }
SMALL_KERNEL(rmsnorm_forward_residual_f32, RmsnormForwardParams, 512) { rmsnorm_forward<float, true>(p); }
SMALL_KERNEL(rmsnorm_forward_residual_bf16, RmsnormForwardParams, 512, 2) { rmsnorm_forward<bf16, true>(p); }

// With n = x * inv_rms and g = dy * weight: dx += inv_rms * (g - n * mean(g * n)), and this block's row of partials is
// the sum of dy * n over its rows.
template <class T> __device__ __forceinline__ void backward_held(const RmsnormBackwardParams& p) {
    constexpr bool AHEAD = sizeof(T) == 2;  // registers do not suffice for two rows of float
    const T *xs = reinterpret_cast<const T*>(p.x), *dys = reinterpret_cast<const T*>(p.dy);
    const float* inv_rmss = reinterpret_cast<const float*>(p.inv_rms);
    const Part<float> weight = load_part(reinterpret_cast<const float*>(p.weight), p.hidden);
    Eight sums[HELD] = {};

    Part<T> x{}, dy{};
    float inv_rms = 0.0f;
    const auto fetch = [&](uint32_t row) {
        if (row >= p.tokens) return;
        x = load_part(xs + (size_t)row * p.hidden, p.hidden);
        dy = load_part(dys + (size_t)row * p.hidden, p.hidden);
        inv_rms = inv_rmss[row];
    };
    fetch(blockIdx.x);
    for (uint32_t row = blockIdx.x; row < p.tokens; row += gridDim.x) {
        T* to = reinterpret_cast<T*>(p.dx) + (size_t)row * p.hidden;
        const Part<T> before = load_part(const_cast<const T*>(to), p.hidden), x_now = x, dy_now = dy;
        const float inv_rms_now = inv_rms;
        if (AHEAD) fetch(row + gridDim.x);
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const Eight xe = unpack(x_now.eights[i]), dye = unpack(dy_now.eights[i]), w = unpack(weight.eights[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float product = dye.v[j] * (xe.v[j] * inv_rms_now);
                dot += product * w.v[j];
                sums[i].v[j] += product;
            }
        }
        const float mean = block_sum(dot) / (float)p.hidden;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const Eight xe = unpack(x_now.eights[i]), dye = unpack(dy_now.eights[i]), w = unpack(weight.eights[i]);
            Eight dx = unpack(before.eights[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) dx.v[j] += inv_rms_now * (dye.v[j] * w.v[j] - xe.v[j] * inv_rms_now * mean);
            store_eight(Whole(), to, held_column(i), p.hidden, dx);
        }
        if (!AHEAD) fetch(row + gridDim.x);
    }
    if (!p.partials) return;
    float* partials = reinterpret_cast<float*>(p.partials) + (size_t)blockIdx.x * p.hidden;
#pragma unroll
    for (int i = 0; i < HELD; i++) store_eight(Whole(), partials, held_column(i), p.hidden, sums[i]);
}

template <class T> __device__ __forceinline__ void backward_again(const RmsnormBackwardParams& p) {
    const float* weight = reinterpret_cast<const float*>(p.weight);
    float* partials = reinterpret_cast<float*>(p.partials) + (size_t)blockIdx.x * p.hidden;
    for (uint32_t row = blockIdx.x; row < p.tokens; row += gridDim.x) {
        const size_t at = (size_t)row * p.hidden;
        const T *dy = reinterpret_cast<const T*>(p.dy) + at, *x = reinterpret_cast<const T*>(p.x) + at;
        T* dx = reinterpret_cast<T*>(p.dx) + at;
        const float inv_rms = reinterpret_cast<const float*>(p.inv_rms)[row];
        float dot = 0.0f;
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
            const float product = to_float(dy[i]) * (to_float(x[i]) * inv_rms);
            dot += product * weight[i];
            if (p.partials) partials[i] = row == blockIdx.x ? product : partials[i] + product;
        }
        const float mean = block_sum(dot) / (float)p.hidden;
        for (uint32_t i = threadIdx.x; i < p.hidden; i += blockDim.x) {
            const float g = to_float(dy[i]) * weight[i], n = to_float(x[i]) * inv_rms;
            dx[i] = from_float<T>(to_float(dx[i]) + inv_rms * (g - n * mean));
        }
    }
}

template <class T> __device__ __forceinline__ void rmsnorm_backward(const RmsnormBackwardParams& p) {
    if (can_hold(p.hidden)) backward_held<T>(p);
    else backward_again<T>(p);
}

SMALL_KERNEL(rmsnorm_backward_f32, RmsnormBackwardParams, 512) { rmsnorm_backward<float>(p); }
SMALL_KERNEL(rmsnorm_backward_bf16, RmsnormBackwardParams, 512) { rmsnorm_backward<bf16>(p); }

// dweight += the rows of partials. A block has 32 columns; each of its warps sums every warps-th row, and the warps'
// sums are added in their order.
SMALL_KERNEL(rmsnorm_add_partials, RmsnormPartialsParams, 1024) {
    __shared__ float sums[32][32];
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const uint32_t column = blockIdx.x * 32 + lane;
    const float* partials = reinterpret_cast<const float*>(p.partials) + column;
    float sum = 0.0f;
    if (column < p.hidden) {
#pragma unroll 8
        for (uint32_t row = warp; row < p.rows; row += warps) sum += partials[(size_t)row * p.hidden];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= p.hidden) return;
    for (uint32_t w = 1; w < warps; w++) sum += sums[w][lane];
    reinterpret_cast<float*>(p.dweight)[column] += sum;
}
