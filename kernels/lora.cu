// The products of a low-rank adapter, in f32. All are thin in one dimension, so they are bound by the activations that
// they read or write once; every sum has a fixed order. In each, out[m, n] sums left[m, k] right[n, k] over k.
#include "kernel.cuh"
#include "tile/philox.cuh"
#include "tile/simt.cuh"

using Thin = Simt<32, 16, 64, 8>;       // rank columns
using Flat = Simt<16, 32, 64, 8>;       // rank rows
using Wide = Simt<64, 64, 16, 1>;       // k is the rank

template <class T> __device__ __forceinline__ const T* left(const LoraParams& p) { return reinterpret_cast<const T*>(p.left); }
template <class T> __device__ __forceinline__ const T* right(const LoraParams& p) { return reinterpret_cast<const T*>(p.right); }
template <class T> __device__ __forceinline__ T* out(const LoraParams& p) { return reinterpret_cast<T*>(p.out); }

// s[tokens, rank] = drop(x)[tokens, in] a[rank, in]^T
template <class T> __device__ __forceinline__ void lora_down(const LoraParams& p) {
    const DropoutParams dropout = of_this_step(p.dropout);
    const T* x = left<T>(p);
    const float* a = right<float>(p);
    Thin::run(
        blockIdx.x * 32, blockIdx.y * 16, p.k, true, true,
        [&](uint32_t t, uint32_t k) {
            const uint64_t at = (uint64_t)t * p.k + k;
            return t < p.m && k < p.k ? to_float(x[at]) * dropout_factor(dropout, at) : 0.0f;
        },
        [&](uint32_t r, uint32_t k) { return r < p.n && k < p.k ? a[(size_t)r * p.k + k] : 0.0f; },
        [&](uint32_t t, uint32_t r, float sum) {
            if (t < p.m && r < p.n) out<float>(p)[(size_t)t * p.n + r] = sum;
        });
}

// y[tokens, out] += scale * s[tokens, rank] b[out, rank]^T
template <class T> __device__ __forceinline__ void lora_up(const LoraParams& p) {
    const float *s = left<float>(p), *b = right<float>(p);
    Wide::run(
        blockIdx.x * 64, blockIdx.y * 64, p.k, true, true,
        [&](uint32_t t, uint32_t r) { return t < p.m && r < p.k ? s[(size_t)t * p.k + r] : 0.0f; },
        [&](uint32_t o, uint32_t r) { return o < p.n && r < p.k ? b[(size_t)o * p.k + r] : 0.0f; },
        [&](uint32_t t, uint32_t o, float sum) {
            if (t >= p.m || o >= p.n) return;
            T* y = out<T>(p) + (size_t)t * p.n + o;
            *y = from_float<T>(to_float(*y) + p.scale * sum);
        });
}

// ds[tokens, rank] = scale * dy[tokens, out] b[out, rank]
template <class T> __device__ __forceinline__ void lora_ds(const LoraParams& p) {
    const T* dy = left<T>(p);
    const float* b = right<float>(p);
    Thin::run(
        blockIdx.x * 32, blockIdx.y * 16, p.k, true, false,
        [&](uint32_t t, uint32_t o) { return t < p.m && o < p.k ? to_float(dy[(size_t)t * p.k + o]) : 0.0f; },
        [&](uint32_t r, uint32_t o) { return r < p.n && o < p.k ? b[(size_t)o * p.n + r] : 0.0f; },
        [&](uint32_t t, uint32_t r, float sum) {
            if (t < p.m && r < p.n) out<float>(p)[(size_t)t * p.n + r] = p.scale * sum;
        });
}

// db[out, rank] += scale * dy[tokens, out]^T s[tokens, rank]
template <class T> __device__ __forceinline__ void lora_db(const LoraParams& p) {
    const T* dy = left<T>(p);
    const float* s = right<float>(p);
    Thin::run(
        blockIdx.x * 32, blockIdx.y * 16, p.k, false, false,
        [&](uint32_t o, uint32_t t) { return o < p.m && t < p.k ? to_float(dy[(size_t)t * p.m + o]) : 0.0f; },
        [&](uint32_t r, uint32_t t) { return r < p.n && t < p.k ? s[(size_t)t * p.n + r] : 0.0f; },
        [&](uint32_t o, uint32_t r, float sum) {
            if (o < p.m && r < p.n) out<float>(p)[(size_t)o * p.n + r] += p.scale * sum;
        });
}

// da[rank, in] += ds[tokens, rank]^T drop(x)[tokens, in]
template <class T> __device__ __forceinline__ void lora_da(const LoraParams& p) {
    const DropoutParams dropout = of_this_step(p.dropout);
    const float* ds = left<float>(p);
    const T* x = right<T>(p);
    Flat::run(
        blockIdx.y * 16, blockIdx.x * 32, p.k, false, false,
        [&](uint32_t r, uint32_t t) { return r < p.m && t < p.k ? ds[(size_t)t * p.m + r] : 0.0f; },
        [&](uint32_t i, uint32_t t) {
            const uint64_t at = (uint64_t)t * p.n + i;
            return i < p.n && t < p.k ? to_float(x[at]) * dropout_factor(dropout, at) : 0.0f;
        },
        [&](uint32_t r, uint32_t i, float sum) {
            if (r < p.m && i < p.n) out<float>(p)[(size_t)r * p.n + i] += sum;
        });
}

// dx[tokens, in] += drop'(ds[tokens, rank] a[rank, in])
template <class T> __device__ __forceinline__ void lora_dx(const LoraParams& p) {
    const DropoutParams dropout = of_this_step(p.dropout);
    const float *ds = left<float>(p), *a = right<float>(p);
    Wide::run(
        blockIdx.x * 64, blockIdx.y * 64, p.k, true, false,
        [&](uint32_t t, uint32_t r) { return t < p.m && r < p.k ? ds[(size_t)t * p.k + r] : 0.0f; },
        [&](uint32_t i, uint32_t r) { return i < p.n && r < p.k ? a[(size_t)r * p.n + i] : 0.0f; },
        [&](uint32_t t, uint32_t i, float sum) {
            if (t >= p.m || i >= p.n) return;
            const uint64_t at = (uint64_t)t * p.n + i;
            T* dx = out<T>(p) + at;
            *dx = from_float<T>(to_float(*dx) + sum * dropout_factor(dropout, at));
        });
}

#define LORA_KERNELS(name)                                    \
    KERNEL(name##_f32, LoraParams, 256) { name<float>(p); }   \
    KERNEL(name##_bf16, LoraParams, 256) { name<bf16>(p); }
LORA_KERNELS(lora_down)
LORA_KERNELS(lora_up)
LORA_KERNELS(lora_ds)
LORA_KERNELS(lora_db)
LORA_KERNELS(lora_da)
LORA_KERNELS(lora_dx)
