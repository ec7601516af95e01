// The NF4 data type (Dettmers et al. 2023, arXiv 2305.14314), as bitsandbytes stores it: 16 levels, one absmax for 64
// values, the first of two values in a byte's high half.
#pragma once
#include "kernel.cuh"

__device__ const float NF4_LEVELS[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The same by selections among immediates. A load at a kernel's start would wait behind all that was asked for before it, and
// an array would be put into memory.
__device__ __forceinline__ float nf4_level(uint32_t code) {
    const auto two = [&](float x, float y) { return code & 1 ? y : x; };
    const auto four = [&](float a, float b, float c, float d) { return code & 2 ? two(c, d) : two(a, b); };
    const float first = four(-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f);
    const float second = four(-0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f);
    const float third = four(0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f);
    const float fourth = four(0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f);
    const float low = code & 4 ? second : first, high = code & 4 ? fourth : third;
    return code & 8 ? high : low;
}

// A value's code is the number of thresholds below it. bitsandbytes writes these out; they are not quite midpoints.
__device__ const float NF4_THRESHOLDS[15] = {
    -0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
    -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
    0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784178118011f};

// Finds codes in two look-ups and one comparison. [-1, 1) is cut into 32 buckets of 1/16: thresholds are further apart
// than that, so a bucket holds one at most, and none lies so near an edge that rounding could move a value past it.
// 32 words a table: lanes that look up different buckets use different banks.
struct Nf4Encoder {
    float threshold[32];
    uint32_t below[32];

    // Called by every thread of the block; a barrier must follow.
    __device__ __forceinline__ void fill() {
        if (threadIdx.x >= 32) return;
        const float low = -1.0f + threadIdx.x / 16.0f, high = low + 1.0f / 16.0f;
        float mine = INFINITY;
        uint32_t count = 0;
        for (int i = 0; i < 15; i++) {
            const float t = NF4_THRESHOLDS[i];
            if (t < low) count++;
            else if (t < high) mine = t;
        }
        threshold[threadIdx.x] = mine;
        below[threadIdx.x] = count;
    }

    // x in [-1, 1], give or take a rounding. NaN (from a block of zeros) has code 0, as on CUDA in bitsandbytes.
    __device__ __forceinline__ uint32_t code(float x) const {
        const int bucket = (int)fminf(fmaxf(fmaf(x, 16.0f, 16.0f), 0.0f), 31.0f);
        return below[bucket] + (x > threshold[bucket]);
    }
};
