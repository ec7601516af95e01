// Rotary position embedding in place, one block a token. A position beyond the table gives NaN.
#include "kernel.cuh"

template <class T> __device__ __forceinline__ void rope_turn(const RopeParams& p) {
    const uint32_t position = reinterpret_cast<const uint32_t*>(p.positions)[blockIdx.x];
    const uint32_t half = p.head_dim / 2;
    const float* cos = reinterpret_cast<const float*>(p.cos) + (size_t)position * half;
    const float* sin = reinterpret_cast<const float*>(p.sin) + (size_t)position * half;
    T* x = reinterpret_cast<T*>(p.x) + (size_t)blockIdx.x * p.columns;
    for (uint32_t i = threadIdx.x; i < p.columns / 2; i += blockDim.x) {
        const uint32_t plane = i % half;
        T *left = x + i / half * p.head_dim + plane, *right = left + half;
        const bool known = position < p.position_count;
        const float c = known ? cos[plane] : NAN, s = known ? p.sign * sin[plane] : NAN;
        const float a = to_float(*left), b = to_float(*right);
        *left = from_float<T>(a * c - b * s);
        *right = from_float<T>(b * c + a * s);
    }
}

KERNEL(rope_f32, RopeParams, 256) { rope_turn<float>(p); }
KERNEL(rope_bf16, RopeParams, 256) { rope_turn<bf16>(p); }
