// Values as a checkpoint holds them to those of a tensor, eight a thread. What is not finite is reported by its number.
#include "kernel.cuh"
#include "tile/vector.cuh"

struct f16 {
    uint16_t bits;
};

// Exact: the exponent moves by a product, which makes subnormal halves normal floats.
__device__ __forceinline__ float to_float(f16 x) {
    const float magnitude = __uint_as_float((x.bits & 0x7fffu) << 13) * 0x1p112f;
    const uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return __uint_as_float(__float_as_uint(magnitude) | special | (x.bits & 0x8000u) << 16);
}

template <class Kind, class S>
__device__ __forceinline__ Eight load_stored(Kind kind, const S* x, uint64_t i, uint64_t count) {
    return load_eight(kind, x, i, count);
}
__device__ __forceinline__ Eight load_stored(Whole, const f16* x, uint64_t i, uint64_t) {
    const uint4 words = load_16(x + i);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
    Eight e;
#pragma unroll
    for (int j = 0; j < 8; j++) e.v[j] = to_float(f16{(uint16_t)(pairs[j / 2] >> (j % 2 * 16))});
    return e;
}
__device__ __forceinline__ Eight load_stored(Ragged, const f16* x, uint64_t i, uint64_t count) {
    Eight e;
#pragma unroll
    for (int j = 0; j < 8; j++) e.v[j] = i + j < count ? to_float(x[i + j]) : 0.0f;
    return e;
}

template <class S, class T> __device__ __forceinline__ void convert(const ConvertParams& p) {
    my_eight(p.count, [&](auto kind, uint64_t i) {
        const Eight e = load_stored(kind, reinterpret_cast<const S*>(p.x), i, p.count);
        store_eight(kind, reinterpret_cast<T*>(p.y), i, p.count, e);
        // Rounding may have made infinity of a value that was finite.
        uint32_t bad = 8;
#pragma unroll
        for (int j = 7; j >= 0; j--) {
            if ((__float_as_uint(to_float(from_float<T>(e.v[j]))) & 0x7f800000u) == 0x7f800000u) bad = j;
        }
        if (bad < 8) atomic_min(reinterpret_cast<uint64_t*>(p.report), p.first + i + bad);
    });
}

KERNEL(convert_f32_f32, ConvertParams, 256) { convert<float, float>(p); }
KERNEL(convert_f32_bf16, ConvertParams, 256) { convert<float, bf16>(p); }
KERNEL(convert_f16_f32, ConvertParams, 256) { convert<f16, float>(p); }
KERNEL(convert_f16_bf16, ConvertParams, 256) { convert<f16, bf16>(p); }
KERNEL(convert_bf16_f32, ConvertParams, 256) { convert<bf16, float>(p); }
KERNEL(convert_bf16_bf16, ConvertParams, 256) { convert<bf16, bf16>(p); }
