// Rotary position embedding in place, one block a token, of queries and keys at once. A position beyond the table gives
// NaN. A thread turns eight planes of a head; the angles, which all heads share, come from L1.
#include "kernel.cuh"
#include "tile/vector.cuh"

__device__ __forceinline__ void turn(float& a, float& b, float cos, float sin) {
    const float left = a * cos - b * sin;
    b = b * cos + a * sin;
    a = left;
}

template <class T> __device__ __forceinline__ void rope_turn(const RopeParams& p) {
    const uint32_t token = blockIdx.x, position = reinterpret_cast<const uint32_t*>(p.positions)[token];
    const uint32_t half = p.head_dim / 2, eights = (half + 7) / 8, heads = p.columns[0] / p.head_dim;
    const bool known = position < p.position_count;
    const float* cos = reinterpret_cast<const float*>(p.cos) + (size_t)position * half;
    const float* sin = reinterpret_cast<const float*>(p.sin) + (size_t)position * half;
    for (uint32_t i = threadIdx.x; i < (heads + p.columns[1] / p.head_dim) * eights; i += blockDim.x) {
        const uint32_t head = i / eights, plane = i % eights * 8;
        T* left = head < heads ? reinterpret_cast<T*>(p.x[0]) + (size_t)token * p.columns[0] + head * p.head_dim
                               : reinterpret_cast<T*>(p.x[1]) + (size_t)token * p.columns[1] + (head - heads) * p.head_dim;
        T* right = left + half;
        if (known && half % 8 == 0) {
            Eight a = load_eight(left + plane), b = load_eight(right + plane);
            const Eight c = load_eight(cos + plane), s = load_eight(sin + plane);
#pragma unroll
            for (int j = 0; j < 8; j++) turn(a.v[j], b.v[j], c.v[j], p.sign * s.v[j]);
            store_eight(left + plane, a);
            store_eight(right + plane, b);
        } else {
            for (uint32_t j = plane; j < plane + 8 && j < half; j++) {
                float a = to_float(left[j]), b = to_float(right[j]);
                turn(a, b, known ? cos[j] : NAN, known ? p.sign * sin[j] : NAN);
                left[j] = from_float<T>(a);
                right[j] = from_float<T>(b);
            }
        }
    }
}

SMALL_KERNEL(rope_f32, RopeParams, 512) { rope_turn<float>(p); }
SMALL_KERNEL(rope_bf16, RopeParams, 512, 3) { rope_turn<bf16>(p); }
