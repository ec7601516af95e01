// NF4 quantisation and its inverse, bit for bit as bitsandbytes does on CUDA. Bound by memory: every value is touched
// once, 16 bytes at a time, and with double quantisation the scales are decoded in the same pass.
#include "kernel.cuh"
#include "tile/nf4.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

// Sixteen values a thread; four threads share an absmax.
template <class T> __device__ __forceinline__ void nf4_quantize(const Nf4QuantizeParams& p) {
    __shared__ Nf4Encoder encoder;
    encoder.fill();
    const uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const bool inside = thread * 16 < p.count;
    Eight values[2] = {};
    if (inside) {
        const T* x = reinterpret_cast<const T*>(p.x) + thread * 16;
        values[0] = load_eight(x);
        values[1] = load_eight(x + 8);
    }
    float absmax = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) absmax = fmaxf(absmax, fabsf(values[i / 8].v[i % 8]));
    absmax = fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, 1));
    absmax = fmaxf(absmax, __shfl_xor_sync(0xffffffffu, absmax, 2));
    const float reciprocal = __fdiv_rn(1.0f, absmax);
    __syncthreads();
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int shift = i % 8 / 2 * 8 + (i % 2 ? 0 : 4);
        words[i / 8] |= encoder.code(__fmul_rn(values[i / 8].v[i % 8], reciprocal)) << shift;
    }
    if (!inside) return;
    reinterpret_cast<uint2*>(p.codes)[thread] = make_uint2(words[0], words[1]);
    if (thread % 4 == 0) reinterpret_cast<float*>(p.absmax)[thread / 4] = absmax;
    __threadfence();  // the next kernel may read weights before it waits for this one
}

KERNEL(nf4_quantize_f32, Nf4QuantizeParams, 256) { nf4_quantize<float>(p); }
KERNEL(nf4_quantize_bf16, Nf4QuantizeParams, 256) { nf4_quantize<bf16>(p); }

// Double quantisation, first pass: block b of 256 sums its part of the absmax values.
KERNEL(nf4_sum_absmax, Nf4DoubleParams, 256) {
    const float* absmax = reinterpret_cast<const float*>(p.absmax);
    double sum = 0.0;
    for (uint64_t i = blockIdx.x * 256 + threadIdx.x; i < p.blocks; i += 256 * 256) sum += absmax[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) reinterpret_cast<double*>(p.partials)[blockIdx.x] = sum;
}

// The index of the map's value nearest to x, as bitsandbytes searches it: midpoints in f32, ties to the pivot.
__device__ __forceinline__ uint32_t nearest(const float* map, float x) {
    int pivot = 127, above = 255, below = 0;
    float upper = 1.0f, lower = -1.0f, value = map[pivot];
#pragma unroll
    for (int step = 64; step > 0; step >>= 1) {
        if (x > value) {
            below = pivot;
            lower = value;
            pivot += step;
        } else {
            above = pivot;
            upper = value;
            pivot -= step;
        }
        value = map[pivot];
    }
    if (above == 255) upper = map[255];
    if (below == 0) lower = map[0];
    if (x > value) return x > __fmul_rn(__fadd_rn(upper, value), 0.5f) ? above : pivot;
    return x < __fmul_rn(__fadd_rn(lower, value), 0.5f) ? below : pivot;
}

// Second pass: a block quantises 256 absmax values, less their mean over the tensor, to 8 bits.
KERNEL(nf4_quantize_absmax, Nf4DoubleParams, 256) {
    __shared__ float map[256];
    map[threadIdx.x] = reinterpret_cast<const float*>(p.map)[threadIdx.x];
    const double sum = block_sum(reinterpret_cast<const double*>(p.partials)[threadIdx.x]);
    const float offset = (float)(sum / (double)p.blocks);
    const uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
    const bool inside = i < p.blocks;
    const float value = inside ? __fsub_rn(reinterpret_cast<const float*>(p.absmax)[i], offset) : 0.0f;
    const float nested = block_max(fabsf(value));
    if (inside) reinterpret_cast<uint8_t*>(p.codes)[i] = nearest(map, __fmul_rn(value, __fdiv_rn(1.0f, nested)));
    if (threadIdx.x == 0) reinterpret_cast<float*>(p.nested_absmax)[blockIdx.x] = nested;
    if (threadIdx.x == 0 && blockIdx.x == 0) reinterpret_cast<float*>(p.offset)[0] = offset;
    __threadfence();  // as above
}

// An f32 output holds the bf16 value too, so that all paths compute with the same weights, unless it is to be exact.
template <bool EXACT, class Y> __device__ __forceinline__ float rounded(float x) {
    return EXACT || sizeof(Y) == 2 ? x : to_float(from_float<bf16>(x));
}

// Eight values at a time, so that a warp reads 128 and writes 512 (bf16) bytes in a row; four such per thread, whose
// loads are all under way before the first is used.
template <bool DOUBLE, bool EXACT, class Y> __device__ __forceinline__ void nf4_dequantize(const Nf4DequantizeParams& p) {
    constexpr int STEPS = 4;
    __shared__ float levels[16];
    __shared__ float map[256];
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(p.codes);
    const float* absmax = reinterpret_cast<const float*>(p.absmax);
    const uint64_t first = (uint64_t)blockIdx.x * (256 * STEPS) + threadIdx.x, words = p.count / 8;

    uint32_t word[STEPS];
    uint32_t scale_code[STEPS];
    float scale[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const uint64_t i = first + s * 256;
        if (i >= words) continue;
        word[s] = codes[i];
        scale[s] = absmax[DOUBLE ? i / 8 / KIUNGO_NF4_NESTED_BLOCK : i / 8];
        if (DOUBLE) scale_code[s] = reinterpret_cast<const uint8_t*>(p.scale_codes)[i / 8];
    }
    if (threadIdx.x < 16) levels[threadIdx.x] = NF4_LEVELS[threadIdx.x];
    if (DOUBLE) map[threadIdx.x] = reinterpret_cast<const float*>(p.map)[threadIdx.x];
    const float offset = DOUBLE ? *reinterpret_cast<const float*>(p.offset) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const uint64_t i = first + s * 256;
        if (i >= words) continue;
        // Two roundings, as where the absmax is decoded in a pass of its own.
        const float by = DOUBLE ? __fadd_rn(__fmul_rn(map[scale_code[s]], scale[s]), offset) : scale[s];
        Eight values;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t code = word[s] >> (j / 2 * 8 + (j % 2 ? 0 : 4)) & 15;
            values.v[j] = rounded<EXACT, Y>(__fmul_rn(levels[code], by));
        }
        store_eight(reinterpret_cast<Y*>(p.y) + i * 8, values);
    }
}

KERNEL(nf4_dequantize_bf16, Nf4DequantizeParams, 256) { nf4_dequantize<false, false, bf16>(p); }
KERNEL(nf4_dequantize_f32, Nf4DequantizeParams, 256) { nf4_dequantize<false, false, float>(p); }
KERNEL(nf4_dequantize_exact, Nf4DequantizeParams, 256) { nf4_dequantize<false, true, float>(p); }
KERNEL(nf4_dequantize_double_bf16, Nf4DequantizeParams, 256) { nf4_dequantize<true, false, bf16>(p); }
KERNEL(nf4_dequantize_double_f32, Nf4DequantizeParams, 256) { nf4_dequantize<true, false, float>(p); }
KERNEL(nf4_dequantize_double_exact, Nf4DequantizeParams, 256) { nf4_dequantize<true, true, float>(p); }
