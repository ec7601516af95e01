// What AdamW's kernels share: a step's factors, and rounding to bf16 at random, which keeps the small updates that
// rounding to nearest would lose, on average.
#pragma once
#include "kernel.cuh"
#include "tile/philox.cuh"
#include "tile/reduce.cuh"
#include "tile/vector.cuh"

struct AdamwStep {
    AdamwFactors factors;
    float clip;  // of the gradient
    uint32_t number;
    bool stopped;
};

__device__ __forceinline__ AdamwStep adamw_step(const AdamwParams& p) {
    const StepState* state = reinterpret_cast<const StepState*>(p.state);
    const StepStatus* status = reinterpret_cast<const StepStatus*>(p.status);
    return {state ? state->adamw : p.factors, status ? status->factor : 1.0f, state ? state->step : p.step,
            status && status->stopped};
}

// A gradient that is not finite reaches no weight: where one learns before the norm is known, only the norm shows it.
__device__ __forceinline__ float usable(float g) { return isfinite(g) ? g : 0.0f; }

// Which of the arrays that a step rounds.
enum Rounded { WEIGHT = 1, FIRST = 2, SECOND = 3 };

// Sixteen bits for each of elements i..i + 8 (i a multiple of eight), as in src/ops/adamw/rounding.rs. The array's
// number makes the counter differ from those of dropout.
__device__ __forceinline__ uint4 rounding_bits(const AdamwParams& p, uint32_t step, Rounded array, uint64_t i) {
    const uint64_t eight = i / 8;
    return philox(make_uint4((uint32_t)eight, (uint32_t)(eight >> 32) | (uint32_t)array << 30, p.stream, step),
                  make_uint2(p.seed_low, p.seed_high));
}

// Eight elements of which all are there: each 16 bytes in one piece, whatever stands around them.
template <class T> __device__ __forceinline__ void store_all(Whole, T* y, uint64_t i, uint64_t, const Packed<T>& e) {
#pragma unroll
    for (int j = 0; j < (int)sizeof(T) / 2; j++) store_16_global(y + i + j * (16 / sizeof(T)), e.words[j]);
}
template <class T> __device__ __forceinline__ void store_all(Ragged kind, T* y, uint64_t i, uint64_t count, const Packed<T>& e) {
    store_packed(kind, y, i, count, e);
}

// Stores eight elements: as they are, or rounded at random.
template <class Kind>
__device__ __forceinline__ void store_rounded(Kind kind, float* y, const AdamwParams& p, uint32_t, Rounded, uint64_t i, const Eight& e) {
    store_all(kind, y, i, p.count, packed<float>(e));
}
template <class Kind>
__device__ __forceinline__ void store_rounded(Kind kind, bf16* y, const AdamwParams& p, uint32_t step, Rounded array, uint64_t i, const Eight& e) {
    const uint4 random = rounding_bits(p, step, array, i);
    const uint32_t words[4] = {random.x, random.y, random.z, random.w};
    // Away from zero with the probability of what is cut off: the upper halves of these.
    uint32_t sums[8];
    float any = 0.0f;  // NaN if one is not finite
#pragma unroll
    for (int j = 0; j < 8; j++) {
        sums[j] = __float_as_uint(e.v[j]) + (j % 2 ? words[j / 2] >> 16 : words[j / 2] & 0xffffu);
        any = fmaf(e.v[j], 0.0f, any);
    }
    if (any != any) {
#pragma unroll
        for (int j = 0; j < 8; j++) sums[j] = e.v[j] == e.v[j] ? sums[j] : 0x7fffffffu;
    }
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; j++) pairs[j] = __byte_perm(sums[2 * j], sums[2 * j + 1], 0x7632);
    store_all(kind, y, i, p.count, Packed<bf16>{{make_uint4(pairs[0], pairs[1], pairs[2], pairs[3])}});
}

// A copy of the new weights in the type that the forward pass reads, if one is asked for.
template <class Kind> __device__ __forceinline__ void store_copy(Kind kind, const AdamwParams& p, uint64_t i, const Eight& w) {
    if (!p.copy) return;
    if (p.copy_is_bf16) store_all(kind, reinterpret_cast<bf16*>(p.copy), i, p.count, packed<bf16>(w));
    else store_all(kind, reinterpret_cast<float*>(p.copy), i, p.count, packed<float>(w));
}

// Adds what all threads of the block bring to the block's sum of squares, if they are wanted.
__device__ __forceinline__ void add_squares(const AdamwParams& p, float mine) {
    if (!p.squares) return;
    const double sum = block_sum((double)mine);
    if (threadIdx.x == 0) reinterpret_cast<float*>(p.squares)[blockIdx.x] += (float)sum;
}
