// Philox4x32 (Salmon et al. 2011): random bits as a function of a counter and a key, the same on CPU and GPU. Ten rounds are
// the authors' default; seven are the fewest that pass all of their tests.
#pragma once
#include "kernel.cuh"

template <int ROUNDS = 10> __device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// The dropout of this step: its number may stand in device memory.
__device__ __forceinline__ DropoutParams of_this_step(DropoutParams d) {
    if (d.state) d.step = reinterpret_cast<const StepState*>(d.state)->step;
    return d;
}

// Of elements 4 quad to 4 quad + 3; `first` is a multiple of 4.
__device__ __forceinline__ uint4 dropout_words(const DropoutParams& d, uint64_t quad) {
    quad += d.first / 4;
    return philox(make_uint4((uint32_t)quad, (uint32_t)(quad >> 32), d.stream, d.step), make_uint2(d.seed_low, d.seed_high));
}

// What dropout multiplies element `index` with: 0 or the scale. Word index % 4 of the counter (index / 4, stream, step)
// under the seed, as in src/ops/philox.rs.
__device__ __forceinline__ float dropout_factor(const DropoutParams& d, uint64_t index) {
    if (d.threshold == 0) return d.scale;
    const uint4 words = dropout_words(d, index / 4);
    const uint32_t which = index % 4;
    const uint32_t word = which < 2 ? (which == 0 ? words.x : words.y) : (which == 2 ? words.z : words.w);
    return word >= d.threshold ? d.scale : 0.0f;
}

// Which of elements 4 quad, ..., 4 quad + 3 are kept, a bit each.
__device__ __forceinline__ uint32_t dropout_kept(const DropoutParams& d, uint64_t quad) {
    const uint4 words = dropout_words(d, quad);
    return (words.x >= d.threshold) | (words.y >= d.threshold) << 1 | (words.z >= d.threshold) << 2 |
           (words.w >= d.threshold) << 3;
}
